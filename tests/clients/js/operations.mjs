// Calls the gateway with the unmodified JavaScript SDK, and writes what the SDK answered as JSON: node operations.mjs URL
import { Client } from "@langchain/langgraph-sdk";

const client = new Client({ apiUrl: process.argv[2], apiKey: null, callerOptions: { maxRetries: 0 } });
const answered = {};

const thread = await client.threads.create({ metadata: { from: "the JavaScript SDK" } });
const threadId = thread.thread_id;
answered.empty = await client.threads.getState(threadId);
answered.created = await client.runs.create(threadId, "chain", { input: { n: 3 } });
answered.joined = await client.runs.join(threadId, answered.created.run_id);
answered.got = await client.runs.get(threadId, answered.created.run_id);
let told;
answered.waited = await client.runs.wait(threadId, "chain", { input: { n: 2 }, onRunCreated: (run) => (told = run) });
answered.told = told;
answered.waitedWithoutThread = await client.runs.wait(null, "chain", { input: { n: 2 } });
answered.state = await client.threads.getState(threadId);
answered.history = await client.threads.getHistory(threadId, { limit: 100 });

answered.updated = await client.threads.updateState(threadId, { values: { log: ["by hand"] } });
answered.changed = await client.threads.getState(threadId);
const supersteps = [{ updates: [{ values: { items: ["a"] }, asNode: "__start__" }] }];
answered.made = await client.threads.create({ graphId: "ledger", supersteps, ttl: 60 });

answered.failed = await client.runs.wait(null, "fails", { input: {} }).then(
  () => null,
  (error) => String(error),
);

const slow = await client.threads.create();
answered.slow = await client.runs.create(slow.thread_id, "slow", { input: { seconds: 600 } });
const open = client.runs.join(slow.thread_id, answered.slow.run_id);
await client.runs.cancel(slow.thread_id, answered.slow.run_id, false);
await open;
answered.cancelled = await client.runs.get(slow.thread_id, answered.slow.run_id);

const asked = await client.threads.create();
answered.asked = await client.runs.wait(asked.thread_id, "ask", { input: {} });
answered.resumed = await client.runs.create(asked.thread_id, "ask", { input: {}, command: { resume: "yes" } });

process.stdout.write(JSON.stringify(answered));
