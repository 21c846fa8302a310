// Streams runs with the unmodified JavaScript SDK, and writes what it got as JSON: node streams.mjs URL
import { Client } from "@langchain/langgraph-sdk";

const client = new Client({ apiUrl: process.argv[2], apiKey: null, callerOptions: { maxRetries: 0 } });
const got = {};

async function read(stream, until = () => false) {
  const events = [];
  for await (const one of stream) {
    events.push({ id: one.id, event: one.event, data: one.data });
    if (until(one)) break;
  }
  return events;
}

const input = (text) => ({ messages: [{ role: "user", content: text }] });

const thread = await client.threads.create({ metadata: { from: "streams.mjs" } });
const threadId = thread.thread_id;
let created;
const streamMode = ["values", "updates", "messages-tuple", "custom", "tasks", "checkpoints", "debug", "events"];
got.all = await read(client.runs.stream(threadId, "agent", { input: input("one two"), streamMode, onRunCreated: (run) => (created = run) }));
got.created = created;
got.again = await read(client.runs.joinStream(threadId, created.run_id, { lastEventId: "-1", streamMode }));
got.messages = await read(client.runs.stream(threadId, "agent", { input: input("three"), streamMode: "messages" }));
got.withoutThread = await read(client.runs.stream(null, "agent", { input: input("four"), streamMode: "values" }));
got.failed = await read(client.runs.stream(null, "fails", { input: {}, streamMode: "values" }));
got.interrupted = await read(client.runs.stream(threadId, "agent", { input: input("transfer"), streamMode: "values" }));
got.resumed = await read(client.runs.stream(threadId, "agent", { input: null, command: { resume: "yes" }, streamMode: ["updates"] }));

// Started without a stream; joined in the middle, left in the middle, and joined where it was left.
const slow = await client.threads.create();
const run = await client.runs.create(slow.thread_id, "agent", { input: input("slow"), streamMode: ["messages-tuple"], streamResumable: true });
const some = (n) => (one) => one.event === "messages" && one.data[0].content.startsWith(`word-${n} `);
got.joined = await read(client.runs.joinStream(slow.thread_id, run.run_id, { lastEventId: "-1" }), some(5));
got.rest = await read(client.runs.joinStream(slow.thread_id, run.run_id, { lastEventId: got.joined.at(-1).id }), some(10));
await client.runs.cancel(slow.thread_id, run.run_id, true);
got.end = (await read(client.runs.joinStream(slow.thread_id, run.run_id, { lastEventId: got.rest.at(-1).id }))).at(-1);

// What else a chat needs of threads.
got.search = await client.threads.search({ metadata: { graph_id: "agent", from: "streams.mjs" }, limit: 10 });
got.patched = await client.threads.update(threadId, { metadata: { title: "renamed" } });
got.history = await client.threads.getHistory(threadId, { limit: 3 });
got.copy = await client.threads.copy(threadId);
await client.threads.delete(threadId);
got.deleted = await client.threads.get(threadId).then(
  () => null,
  (error) => error.status,
);
process.stdout.write(JSON.stringify(got), () => process.exit(0));
