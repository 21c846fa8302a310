// Runs the agent as CopilotKit does, with the unmodified AG-UI client, and writes the events of AG-UI as JSON: node ag_ui.mjs URL
import { LangGraphAgent } from "@ag-ui/langgraph";

const agent = new LangGraphAgent({ deploymentUrl: process.argv[2], graphId: "agent" });

async function run(text, more = {}) {
  if (text) agent.messages = [...agent.messages, { id: crypto.randomUUID(), role: "user", content: text }];
  const events = [];
  const result = await agent.runAgent(more, { onEvent: ({ event }) => void events.push(event) });
  return { events, result: result.result, messages: agent.messages };
}

const got = { first: await run("one two"), second: await run("three"), interrupted: await run("transfer") };
got.resumed = await run(null, { forwardedProps: { command: { resume: "yes" } } });
process.stdout.write(JSON.stringify(got), () => process.exit(0));
