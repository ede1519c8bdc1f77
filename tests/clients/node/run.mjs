// openai-node against a running omlxd: OPENAI_BASE_URL, OPENAI_API_KEY and OMLX_MODEL say where.
// Each check is a function; the first that fails ends the run with its stack. Arguments name those to run.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { Attempts } from "./attempts.mjs";

const model = process.env.OMLX_MODEL;
const messages = [{ role: "user", content: "Say something, anything at all." }];
const client = new OpenAI({ maxRetries: 0, timeout: 60_000 });
// No end of sequence ends these: how long they are is known.
const request = { model, messages, max_completion_tokens: 12, temperature: 0, ignore_eos: true };

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
  const long = [{ role: "user", content: "word ".repeat(140_000) }];
  await rejects(OpenAI.BadRequestError, 400, "context_length_exceeded", "messages", ask({ messages: long }));
}

const tools = ["get_weather", "get_time"].map((name) => ({
  type: "function",
  function: {
    name,
    parameters: {
      type: "object", properties: { city: { type: "string", maxLength: 12 } }, required: ["city"],
      additionalProperties: false,
    },
  },
}));
const named = { type: "function", function: { name: "get_weather" } };
const asked = { model, messages, tools, tool_choice: named, temperature: 0, max_tokens: 200 };

async function toolsRoundTrip() {
  const first = await client.chat.completions.create(asked);
  const [choice] = first.choices;
  assert.equal(choice.finish_reason, "tool_calls");
  const [call] = choice.message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assert.equal(typeof JSON.parse(call.function.arguments).city, "string");
  const result = { role: "tool", tool_call_id: call.id, content: "3 degrees" };
  const second = await client.chat.completions.create({
    model, messages: [...messages, choice.message, result], tools, max_tokens: 4,
  });
  assert(second.usage.prompt_tokens > first.usage.prompt_tokens);
}

async function toolsStreamed() {
  const whole = (await client.chat.completions.create(asked)).choices[0].message.tool_calls[0].function;
  const final = await client.chat.completions.stream(asked).finalChatCompletion();
  assert.equal(final.choices[0].finish_reason, "tool_calls");
  const [call] = final.choices[0].message.tool_calls;
  assert.match(call.id, /^call_/);
  assert.deepEqual([call.function.name, call.function.arguments], [whole.name, whole.arguments]);
}

async function parallelTools() {
  const answer = await client.chat.completions.create({ ...asked, tool_choice: "required", max_tokens: 400 });
  const calls = answer.choices[0].message.tool_calls;
  assert(calls.length >= 1);
  assert.equal(new Set(calls.map((call) => call.id)).size, calls.length);
  const one = await client.chat.completions.create({
    ...asked, tool_choice: "required", parallel_tool_calls: false, max_tokens: 400,
  });
  assert.equal(one.choices[0].message.tool_calls.length, 1);
}

async function parseWithSchema() {
  const place = z.object({ name: z.enum(["Oslo", "Rome"]), size: z.number().int().min(0).max(9), old: z.boolean() });
  const answer = await client.chat.completions.parse({
    model, messages, temperature: 0, max_tokens: 300, response_format: zodResponseFormat(place, "place"),
  });
  place.parse(answer.choices[0].message.parsed);
}

async function timeout() {
  const { max_completion_tokens, ...endless } = request;
  const impatient = client.chat.completions.create(endless, { timeout: 300 });
  const error = await impatient.then(() => assert.fail("no timeout"), (error) => error);
  assert(error instanceof OpenAI.APIConnectionTimeoutError, String(error));
  await chat();
}

// A daemon that has no room for more than `count` requests refuses one; the SDK waits as it is told, and gets its
// answer when there is room.
async function waitsAsTold(which, count, kind, status, code) {
  const baseURL = process.env[`OMLX_${which}_BASE_URL`];
  if (!baseURL) return;
  const attempts = new Attempts();
  const busy = new OpenAI({
    baseURL, apiKey: process.env[`OMLX_${which}_API_KEY`], maxRetries: 0,
    fetch: attempts.fetch,
  });
  const { max_completion_tokens, ...endless } = request;
  const held = [];
  while (held.length < count) {
    held.push(await busy.chat.completions.create({ ...endless, stream: true }));
    if (held.length > 1) continue;
    // With its first text it has left the queue.
    for await (const chunk of held[0].tee()[0]) if (chunk.choices[0]?.delta.content) break;
  }
  await rejects(kind, status, code, null, busy.chat.completions.create(request));
  attempts.all.length = 0;
  setTimeout(() => held.forEach((stream) => stream.controller.abort()), 500);
  await busy.chat.completions.create(request, { maxRetries: 5 });
  attempts.assertWaited(status);
}

// One request of a key at a time.
async function retries() {
  await waitsAsTold("BUSY", 1, OpenAI.RateLimitError, 429, "rate_limit_exceeded");
}

// One request runs, one waits.
async function fullQueue() {
  await waitsAsTold("FULL", 2, OpenAI.InternalServerError, 503, "server_overloaded");
}

async function cancel() {
  // Leaving the loop aborts the request.
  for await (const _ of await client.chat.completions.create({ model, messages, stream: true, ignore_eos: true })) break;
  const started = Date.now();
  await chat();
  assert(Date.now() - started < 30_000);
}

const checks = [
  models, chat, streamEqualsWhole, streamHelper, completions, errors, toolsRoundTrip, toolsStreamed, parallelTools,
  parseWithSchema, timeout, retries, fullQueue, cancel,
];
const wanted = process.argv.slice(2);
for (const check of checks.filter(({ name }) => wanted.length === 0 || wanted.includes(name))) {
  await check();
  console.log("ok", check.name);
}
