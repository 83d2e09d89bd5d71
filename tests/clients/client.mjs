// A client in Node, of `fetch` and the package `eventsource`: `client.mjs ADDRESS STREAM PACKAGES`.
//
// Prints what two users met, as one line of JSON: see tests/all/clients.rs.

import { createRequire } from "node:module";

const [address, stream, packages] = process.argv.slice(2);
const { EventSource } = createRequire(`${packages}/`)("eventsource");
const LARGE = JSON.stringify("x".repeat(6 << 20));

// `fetch` keeps no cookies in Node.
class User {
  cookies = new Map();

  fetch = async (path, options = {}) => {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const headers = { "Content-Type": "application/json", ...options.headers, ...(cookie && { Cookie: cookie }) };
    const answer = await fetch(new URL(path, address), { ...options, headers });
    for (const set of answer.headers.getSetCookie()) {
      const [, name, value] = set.match(/^([^=]*)=([^;]*)/);
      if (/max-age=0/i.test(set)) this.cookies.delete(name);
      else this.cookies.set(name, value);
    }
    return answer;
  };

  post = (path, body, more) => this.fetch(path, { method: "POST", body, ...more });

  note = async (action, param1) => {
    const answer = await this.post("/generate", JSON.stringify({ command: "note", action, param1 }));
    return (await answer.json()).data.notes;
  };
}

function inPieces() {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      controller.enqueue(new TextEncoder().encode(LARGE.slice(at, (at += 1 << 16))));
      if (at >= LARGE.length) controller.close();
    },
  });
}

async function read(user) {
  const [events, times, begun] = [[], [], Date.now()];
  let text = "";
  for await (const bytes of (await user.post("/hostile/stream", stream)).body.pipeThrough(new TextDecoderStream())) {
    const lines = (text + bytes).split("\n");
    text = lines.pop();
    for (const line of lines.filter((line) => line.startsWith("data: "))) {
      events.push(JSON.parse(line.slice("data: ".length)).value);
      times.push(Date.now() - begun);
    }
  }
  return { events, times };
}

// Ends when the server has said that there is no more, which closes the source for good.
function eventSource(user) {
  return new Promise((resolve) => {
    const seen = { requests: [], data: [] };
    const source = new EventSource(`${address}/it/stream`, {
      fetch: async (url, options) => {
        const answer = await user.fetch(url, options);
        seen.requests.push(answer.status);
        if (seen.requests.length > 3) source.close();
        return answer;
      },
    });
    source.onmessage = ({ data }) => seen.data.push(JSON.parse(data).value);
    source.onerror = () => source.readyState === EventSource.CLOSED && resolve(seen);
  });
}

const users = [new User(), new User()];
for (const user of users) {
  if ((await user.post("/session")).status !== 200) throw new Error("no session");
}
for (const text of ["milk", "bread"]) {
  for (const [number, user] of users.entries()) await user.note("add", `${text} ${number}`);
}
const { events, times } = await read(users[0]);
const large = [];
for (const [body, more] of [[LARGE], [inPieces(), { duplex: "half" }]]) {
  const answer = await users[0].post("/generate", body, more);
  large.push([answer.status, answer.headers.get("carrel-error"), (await answer.json()).code]);
}
const source = await eventSource(users[0]);
const counted = await (await users[0].fetch("/it")).text();
const notes = [await users[0].note("list"), await users[1].note("list")];
const ended = [(await users[0].fetch("/session", { method: "DELETE" })).status];
ended.push((await users[0].post("/generate", '{"command":"stats"}')).status);
console.log(JSON.stringify({ notes, events, times, large, ended, source, counted }));
