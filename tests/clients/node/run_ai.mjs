// The Vercel AI SDK against a running omlxd: OPENAI_BASE_URL, OPENAI_API_KEY and OMLX_MODEL say where.
// Each check is a function; the first that fails ends the run with its stack. Arguments name those to run.

import assert from "node:assert/strict";
import { APICallError, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { z } from "zod";
import { Attempts } from "./attempts.mjs";

const endpoint = (changes = {}) => createOpenAICompatible({
  name: "omlx", baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY,
  includeUsage: true, supportsStructuredOutputs: true, ...changes,
})(process.env.OMLX_MODEL);
const model = endpoint();
const prompt = "Say something, anything at all.";
const short = { model, prompt, temperature: 0, maxOutputTokens: 12, maxRetries: 0 };
const tools = {
  get_weather: tool({
    description: "Weather of a city.",
    inputSchema: z.object({ city: z.string().max(12) }),
    execute: async ({ city }) => `3 degrees in ${city}`,
  }),
};

async function chat() {
  const answer = await generateText({ ...short, system: "Be brief." });
  assert(["stop", "length"].includes(answer.finishReason), answer.finishReason);
  assert(answer.usage.inputTokens > 0 && answer.usage.outputTokens <= 12);
  return answer.text;
}

async function streamEqualsWhole() {
  const stream = streamText({ ...short, system: "Be brief." });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert.equal(text, await chat());
  assert((await stream.usage).outputTokens > 0);
}

async function toolsRoundTrip() {
  const answer = await generateText({
    ...short, maxOutputTokens: 200, tools, stopWhen: stepCountIs(2),
    // The first step must call, the second may say what it likes.
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
  });
  assert.equal(answer.steps.length, 2);
  const [call] = answer.steps[0].toolCalls;
  assert.equal(call.toolName, "get_weather");
  assert.equal(answer.steps[0].finishReason, "tool-calls");
  assert.equal(answer.steps[0].toolResults[0].output, `3 degrees in ${call.input.city}`);
}

async function toolsStreamed() {
  const stream = streamText({
    ...short, maxOutputTokens: 200, tools, toolChoice: { type: "tool", toolName: "get_weather" },
    stopWhen: stepCountIs(1),
  });
  const kinds = [];
  for await (const part of stream.fullStream) kinds.push(part.type);
  assert(kinds.includes("tool-input-start") && kinds.includes("tool-input-delta"), kinds.join());
  const calls = await stream.toolCalls;
  assert(calls.length >= 1 && calls.every((call) => typeof call.input.city === "string"));
}

async function object() {
  const schema = z.object({ name: z.enum(["Oslo", "Rome"]), size: z.number().int().min(0).max(9), old: z.boolean() });
  const answer = await generateObject({ ...short, maxOutputTokens: 300, schema });
  schema.parse(answer.object);
}

async function rejects(status, retryable, promise) {
  const error = await promise.then(() => assert.fail("no error"), (error) => error);
  assert(APICallError.isInstance(error), String(error));
  assert.equal(error.statusCode, status);
  assert.equal(error.isRetryable, retryable);
  assert(error.message.length > 10);
}

async function errors() {
  await rejects(401, false, generateText({ ...short, model: endpoint({ apiKey: "sk-wrong" }) }));
  await rejects(400, false, generateText({ ...short, temperature: 3 }));
  await rejects(400, false, generateText({ ...short, prompt: "word ".repeat(140_000) }));
}

// A daemon that has no room for more than `count` requests refuses one; the SDK waits as it is told, and gets its
// answer when there is room.
async function waitsAsTold(which, count, status) {
  const baseURL = process.env[`OMLX_${which}_BASE_URL`];
  if (!baseURL) return;
  const attempts = new Attempts();
  const busy = endpoint({
    baseURL, apiKey: process.env[`OMLX_${which}_API_KEY`],
    fetch: attempts.fetch,
  });
  const holder = new AbortController();
  for (let held = 0; held < count; held++) {
    const stream = streamText({
      ...short, model: busy, maxOutputTokens: undefined, abortSignal: holder.signal, onError: () => {},
      providerOptions: { omlx: { ignore_eos: true } },
    });
    const pieces = stream.textStream[Symbol.asyncIterator]();
    // What waits says nothing: its headers tell that it was taken.
    const first = pieces.next();
    if (held === 0) await first;
    while (attempts.all.length <= held) await new Promise((resolve) => setTimeout(resolve, 10));
  }
  await rejects(status, true, generateText({ ...short, model: busy }));
  attempts.all.length = 0;
  setTimeout(() => holder.abort(), 500);
  await generateText({ ...short, model: busy, maxRetries: 4 });
  attempts.assertWaited(status);
}

// One request of a key at a time.
async function retries() {
  await waitsAsTold("BUSY", 1, 429);
}

// One request runs, one waits.
async function fullQueue() {
  await waitsAsTold("FULL", 2, 503);
}

async function cancel() {
  const abort = new AbortController();
  const stream = streamText({
    ...short, maxOutputTokens: undefined, abortSignal: abort.signal, onError: () => {},
    providerOptions: { omlx: { ignore_eos: true } },
  });
  for await (const _ of stream.textStream) break;
  abort.abort();
  const timeout = generateText({ ...short, maxOutputTokens: undefined, abortSignal: AbortSignal.timeout(300),
    providerOptions: { omlx: { ignore_eos: true } } });
  await assert.rejects(timeout, (error) => ["AbortError", "TimeoutError"].includes(error.name));
  const started = Date.now();
  await chat();
  assert(Date.now() - started < 30_000);
}

const checks = [chat, streamEqualsWhole, toolsRoundTrip, toolsStreamed, object, errors, retries, fullQueue, cancel];
const wanted = process.argv.slice(2);
for (const check of checks.filter(({ name }) => wanted.length === 0 || wanted.includes(name))) {
  await check();
  console.log("ok", check.name);
}
