// Uses useStream of the unmodified JavaScript SDK in a page without a browser, as React applications do, and writes what the page
// showed and what it asked for, as JSON: node use_stream.mjs URL
import { JSDOM } from "jsdom";

const page = new JSDOM('<!doctype html><div id="root"></div>', { url: "http://localhost:3000/", pretendToBeVisual: true });
for (const [name, value] of Object.entries({ window: page.window, document: page.window.document, navigator: page.window.navigator, sessionStorage: page.window.sessionStorage })) {
  Object.defineProperty(globalThis, name, { value, configurable: true });
}
globalThis.IS_REACT_ACT_ENVIRONMENT = false;

const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useStream } = await import("@langchain/langgraph-sdk/react");

const apiUrl = process.argv[2];
const asked = [];
const plainFetch = globalThis.fetch;
globalThis.fetch = (input, init) => {
  const url = new URL(String(input?.url ?? input));
  const headers = new Headers(init?.headers);
  const body = typeof init?.body === "string" ? JSON.parse(init.body) : null;
  asked.push({ method: init?.method ?? "GET", path: url.pathname, body, lastEventId: headers.get("last-event-id") });
  return plainFetch(input, init);
};

let stream, threadId;
const rendered = new Set();
const errors = [];

function Chat() {
  stream = useStream({
    apiUrl,
    apiKey: null,
    assistantId: "agent",
    threadId: threadId ?? null,
    onThreadId: (id) => (threadId = id),
    onError: (error) => errors.push(String(error)),
    reconnectOnMount: true,
  });
  const answer = stream.messages.at(-1);
  if (answer?.type === "ai") rendered.add(answer.content);
  return createElement("main", null, ...stream.messages.map((message, n) => createElement("p", { key: message.id ?? n }, message.content)));
}

function open() {
  const root = createRoot(document.getElementById("root"));
  root.render(createElement(Chat));
  return root;
}

async function until(what, condition, seconds = 40) {
  const end = Date.now() + seconds * 1000;
  while (Date.now() < end) {
    const value = await condition();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`not within ${seconds} s: ${what}; shown: ${document.body.textContent}; errors: ${errors}`);
}

const shown = () => [...document.querySelectorAll("p")].map((one) => one.textContent);
const last = () => shown().at(-1) ?? "";
const said = (text) => ({ messages: [{ type: "human", content: text }] });
const idle = () => !stream.isLoading && !stream.isThreadLoading;
const answered = {};

// A new thread; tokens appear one after another.
let root = open();
await until("the page is there", () => stream);
const words = Array.from({ length: 40 }, (_, n) => `w${n}`).join(" ");
stream.submit(said(words));
await until("the answer", () => shown().length > 1 && idle());
answered.rendered = [...rendered];
answered.words = words;
answered.first = shown();
answered.threadId = threadId;
const ofFirst = asked.splice(0);
answered.requests = ofFirst.map(({ method, path }) => `${method} ${path}`);
answered.body = ofFirst.find(({ path }) => path.endsWith("/runs/stream")).body;

// An interrupt, and its answer.
stream.submit(said("transfer"));
answered.interrupt = await until("the interrupt", () => idle() && stream.interrupt);
stream.submit(null, { command: { resume: [{ type: "accept" }] } });
await until("the end", () => idle() && last().startsWith("The decision"));
answered.resumed = shown();

// A reload in the middle: the page is gone, and another one with the same session storage goes on.
stream.submit(said("slow"));
await until("some words", () => last().includes("word-5 "));
const runId = sessionStorage.getItem(`lg:stream:${threadId}`);
root.unmount();
asked.splice(0);
root = open();
await until("more words", () => last().includes("word-20 "));
answered.reloaded = last();
answered.rejoined = asked.find(({ path }) => path.endsWith(`/runs/${runId}/stream`));
answered.runId = runId;

// Stop.
await stream.stop();
await until("it stopped", () => idle());
answered.stopped = asked.find(({ path }) => path.endsWith("/cancel"));
answered.ended = await until("the run has ended", async () => {
  const run = await (await plainFetch(`${apiUrl}/threads/${threadId}/runs/${runId}`)).json();
  return ["pending", "running"].includes(run.status) ? null : run;
});
answered.errors = errors;
root.unmount();

process.stdout.write(JSON.stringify(answered), () => process.exit(0));
