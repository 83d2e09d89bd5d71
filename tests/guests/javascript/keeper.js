// A guest in JavaScript: it keeps a list of texts and a count of its calls, and does what it is told.
//
// Its state is what a JavaScript engine makes of two variables: objects all over the engine's heap. `build.sh` makes
// `keeper.wasm` of it.

import { userId } from "carrel:function/session@0.1.0";

const name = "javascript_keeper";
const summary = "Keeps texts, in JavaScript, and does what it is told.";

const configSchema = {
  type: "object",
  properties: {
    first: { type: "array", items: { type: "string" }, description: "What a new user's list begins with" },
  },
  additionalProperties: false,
};

const inputSchema = {
  type: "object",
  properties: {
    command: {
      enum: ["add", "list", "count", "user", "fail", "refuse", "throw", "trap", "recurse", "spin", "fill", "random"],
    },
    text: { type: "string" },
    times: { type: "integer" },
  },
  required: ["command"],
};

const outputSchema = { type: "object" };

/** What this user has added. */
const texts = [];
/** How often this instance was called, calls that failed included. */
let calls = 0;

const commands = {
  add({ text }) {
    texts.push(text);
    return { count: texts.length };
  },
  /** Adds a text many times, each time with its number: a way to change much memory. */
  fill({ text, times }) {
    for (let i = 0; i < times; i++) {
      texts.push(`${text} ${i}`);
    }
    return { count: texts.length };
  },
  list() {
    return { texts, count: texts.length };
  },
  count() {
    return { count: texts.length };
  },
  user() {
    return { user: userId() };
  },
  /** The engine was seeded when this file was compiled: every new instance gives the same numbers. */
  random() {
    return { random: Math.random() };
  },
  fail({ text }) {
    throw { tag: "failed", val: text ?? "as told" };
  },
  refuse({ text }) {
    throw { tag: "invalid-input", val: text ?? "as told" };
  },
  // What follows stops the instance. Each changes the state first, for the test to see that the change is gone.
  throw() {
    texts.push("lost");
    throw new Error("thrown as told");
  },
  trap() {
    texts.push("lost");
    // An error that the contract does not know cannot be handed over.
    throw { tag: "no such case" };
  },
  recurse() {
    texts.push("lost");
    const deeper = (depth) => deeper(depth + 1) + 1;
    return { depth: deeper(0) };
  },
  spin() {
    texts.push("lost");
    for (;;) {}
  },
};

const exported = {
  describe() {
    return {
      name,
      summary,
      configSchema: JSON.stringify(configSchema),
      inputSchema: JSON.stringify(inputSchema),
      outputSchema: JSON.stringify(outputSchema),
    };
  },
  configure(config) {
    texts.push(...(JSON.parse(config).first ?? []));
  },
  call(input) {
    calls++;
    const told = JSON.parse(input);
    const command = Object.hasOwn(commands, told?.command) ? commands[told.command] : undefined;
    if (!command) {
      throw { tag: "invalid-input", val: "no such command" };
    }
    return JSON.stringify({ ...command(told), calls });
  },
};

export { exported as function };
