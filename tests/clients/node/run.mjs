// openai-node against a running omlxd: OPENAI_BASE_URL, OPENAI_API_KEY and OMLX_MODEL say where.
// Each check is a function; the first that fails ends the run with its stack.

import assert from "node:assert/strict";
import OpenAI from "openai";

const model = process.env.OMLX_MODEL;
const messages = [{ role: "user", content: "Say something, anything at all." }];
const client = new OpenAI({ maxRetries: 0, timeout: 60_000 });
const request = { model, messages, max_completion_tokens: 12, temperature: 0 };

async function models() {
  const ids = [];
  for await (const one of client.models.list()) ids.push(one.id);
  assert(ids.includes(model), ids.join());
  const one = await client.models.retrieve(model);
  assert.equal(one.id, model);
  assert.equal(one.object, "model");
}

async function chat() {
  const answer = await client.chat.completions.create(request);
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.model, model);
  assert.equal(answer.choices[0].finish_reason, "length");
  assert.equal(answer.usage.completion_tokens, 12);
  return answer.choices[0].message.content;
}

async function streamEqualsWhole() {
  const whole = await chat();
  const stream = await client.chat.completions.create({
    ...request, stream: true, stream_options: { include_usage: true },
  });
  let text = "", usage = null, finish = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole);
  assert.equal(finish, "length");
  assert.equal(usage.completion_tokens, 12);
}

async function streamHelper() {
  const runner = client.chat.completions.stream(request);
  const final = await runner.finalChatCompletion();
  assert.equal(final.choices[0].message.content, await chat());
}

async function completions() {
  const body = { model, prompt: "The cache", max_tokens: 8, temperature: 0 };
  const answer = await client.completions.create(body);
  let text = "";
  for await (const chunk of await client.completions.create({ ...body, stream: true })) {
    text += chunk.choices[0]?.text ?? "";
  }
  assert.equal(text, answer.choices[0].text);
}

async function rejects(kind, status, code, param, promise) {
  const error = await promise.then(() => assert.fail(`no ${kind.name}`), (error) => error);
  assert(error instanceof kind, String(error));
  assert.equal(error.status, status);
  assert.equal(error.code, code);
  assert.equal(error.param, param);
  assert(error.requestID, "no x-request-id");
}

async function errors() {
  const ask = (changes, of = client) => of.chat.completions.create({ ...request, ...changes });
  const wrongKey = new OpenAI({ maxRetries: 0, apiKey: "sk-wrong" });
  await rejects(OpenAI.NotFoundError, 404, "model_not_found", "model", ask({ model: "no/such-model" }));
  await rejects(OpenAI.AuthenticationError, 401, "invalid_api_key", null, ask({}, wrongKey));
  await rejects(OpenAI.BadRequestError, 400, "invalid_value", "messages", ask({ messages: [] }));
  await rejects(OpenAI.BadRequestError, 400, "invalid_value", "temperature", ask({ temperature: 3 }));
  const long = [{ role: "user", content: "word ".repeat(5000) }];
  await rejects(OpenAI.BadRequestError, 400, "context_length_exceeded", "messages", ask({ messages: long }));
}

async function cancel() {
  // Leaving the loop aborts the request.
  for await (const _ of await client.chat.completions.create({ model, messages, stream: true })) break;
  const started = Date.now();
  await chat();
  assert(Date.now() - started < 30_000);
}

for (const check of [models, chat, streamEqualsWhole, streamHelper, completions, errors, cancel]) {
  await check();
  console.log("ok", check.name);
}
