// Two users of a project with auth handlers: what each sees of a thread of the first.
import { Client } from "@langchain/langgraph-sdk";

const [apiUrl, threadId] = process.argv.slice(2);
const client = (token) =>
  new Client({ apiUrl, apiKey: null, defaultHeaders: { Authorization: `Bearer ${token}` }, callerOptions: { maxRetries: 0 } });
const status = (error) => error.status ?? Number(/\b4\d\d\b/.exec(error.message)?.[0]);

const ann = client("a-token");
const eve = client("e-token");
const said = {
  ann: (await ann.threads.get(threadId)).metadata.owner,
  eve: await eve.threads.get(threadId).then(() => 200, status),
  found: (await ann.threads.search({ ids: [threadId] })).map((one) => one.thread_id),
  foundByEve: (await eve.threads.search()).length,
  nobody: await client("no-token").threads.search().then(() => 200, status),
};
console.log(JSON.stringify(said));
