// Runs the agent as CopilotKit does, with the unmodified AG-UI client, and writes the events of AG-UI as JSON: node ag_ui.mjs URL
// While the gateway has no GET /assistants/{id}/graph, which the client asks first, the script answers that one request itself, and says so.
import { LangGraphAgent } from "@ag-ui/langgraph";

const GRAPH = {
  nodes: ["__start__", "agent", "approve", "__end__"].map((id) => ({ id, type: "runnable", data: { id, name: id } })),
  edges: [
    { source: "__start__", target: "agent" },
    { source: "agent", target: "approve", conditional: true },
    { source: "agent", target: "__end__", conditional: true },
    { source: "approve", target: "__end__" },
  ],
};
const answeredHere = new Set();
const plainFetch = globalThis.fetch;
globalThis.fetch = async (input, init) => {
  const answer = await plainFetch(input, init);
  const path = new URL(String(input?.url ?? input)).pathname;
  if (answer.status !== 404 || !/^\/assistants\/[^/]+\/graph$/.test(path)) return answer;
  answeredHere.add(path.replace(/[^/]+\/graph$/, "{id}/graph"));
  return Response.json(GRAPH);
};

const agent = new LangGraphAgent({ deploymentUrl: process.argv[2], graphId: "agent" });

async function run(text, more = {}) {
  if (text) agent.messages = [...agent.messages, { id: crypto.randomUUID(), role: "user", content: text }];
  const events = [];
  const result = await agent.runAgent(more, { onEvent: ({ event }) => void events.push(event) });
  return { events, result: result.result, messages: agent.messages };
}

const got = { first: await run("one two"), second: await run("three"), interrupted: await run("transfer") };
got.resumed = await run(null, { forwardedProps: { command: { resume: "yes" } } });
got.answeredHere = [...answeredHere];
process.stdout.write(JSON.stringify(got), () => process.exit(0));
