// OpenAI's JavaScript client at the endpoint of live mode, which it is not told of.
//
//     npm install openai
//     LIVE_URL=http://127.0.0.1:8400/v1 LIVE_KEY=… node openai_client.mjs
//
// Where somebody is asked, the two responses are shown and the first one is picked. A prompt can be given; the policy of
// `make live-demo` reads prompts such as "rich warm : door drum bell rope bridge field stone river =>" only.

import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.LIVE_URL, apiKey: process.env.LIVE_KEY });
const messages = [{ role: "user", content: process.argv[2] ?? "Can I freeze rice?" }];
const body = { model: process.env.LIVE_MODEL ?? "live", user: "ann", messages };

// A plain answer. A client that says nothing of duels never gets one.
const answer = await client.chat.completions.create(body);
console.log(`plain: ${answer.choices.map((choice) => choice.message.content)}`);

// A stream, piece by piece; and by the helper that puts it together.
process.stdout.write("stream: ");
for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
  process.stdout.write(chunk.choices[0].delta.content ?? "");
}
console.log();
console.log(`whole: ${await client.chat.completions.stream(body).finalContent()}`);

// One that may ask: the second choice comes after the first, and the last chunk has `sea` and no choices.
const texts = [];
let last;
for await (const chunk of await client.chat.completions.create({ ...body, stream: true, sea: { duel: "allow" } })) {
  for (const { index, delta } of chunk.choices) texts[index] = (texts[index] ?? "") + (delta.content ?? "");
  last = chunk;
}
console.log(`asked: ${last.sea.duel !== null}: ${texts.join(" | ")}`);
if (last.sea.duel) {
  const said = await client.put(`/feedback/${last.id}/choice`, { body: { outcome: "first" } });
  console.log(`picked: ${said.state}`);
}

// Errors are the client's own, and it does not try again what can never succeed.
try {
  await client.chat.completions.create({ ...body, tools: [{ type: "function", function: { name: "clock" } }] });
} catch (error) {
  if (!(error instanceof OpenAI.BadRequestError)) throw error;
  console.log(`refused: ${error.message}`);
}

// Who has read enough leaves; the engine is let go of.
const left = await client.chat.completions.create({ ...body, stream: true });
for await (const chunk of left) if (chunk.choices[0].delta.content) break;
left.controller.abort();
console.log("left a stream");
