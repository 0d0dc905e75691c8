// Asks for answers with Node's clients: `node ask.js SETTINGS`, prints one JSON document a line.
"use strict";

const http = require("node:http");

const { host, port, count, limit_ms: limitMs, at_once: atOnce } = JSON.parse(process.argv[2]);
const payload = '{"x":1}';
const headers = { "content-type": "application/json" };

// Status, the body as far as it came, whether it came whole, the error, and the time.
function byHttp(number, insecureHTTPParser) {
  return new Promise((resolve) => {
    const found = { status: null, body: [], whole: false, error: null };
    const began = performance.now();
    const end = (error) => {
      clearTimeout(timer);
      request.destroy();
      resolve({ ...found, body: Buffer.concat(found.body).toString("base64"), error, ms: performance.now() - began });
    };
    const options = { host, port, path: `/${number}`, method: "POST", headers, agent: false, insecureHTTPParser };
    const request = http.request(options, (response) => {
      found.status = response.statusCode;
      response.on("data", (piece) => found.body.push(piece));
      response.on("end", () => {
        found.whole = true;
        end(null);
      });
      response.on("error", (error) => end(error.code ?? error.message));
    });
    const timer = setTimeout(() => end("timeout"), limitMs);
    request.on("error", (error) => end(error.code ?? error.message));
    request.end(payload);
  });
}

async function byFetch(number) {
  const found = { status: null, body: [], whole: false, error: null };
  const began = performance.now();
  try {
    const settings = { method: "POST", headers, body: payload, redirect: "manual", signal: AbortSignal.timeout(limitMs) };
    const response = await fetch(`http://${host}:${port}/${number}`, settings);
    found.status = response.status;
    for await (const piece of response.body ?? []) found.body.push(piece);
    found.whole = true;
  } catch (error) {
    found.error = error.cause?.code ?? error.cause?.message ?? error.message;
  }
  return { ...found, body: Buffer.concat(found.body).toString("base64"), ms: performance.now() - began };
}

const clients = {
  http: (number) => byHttp(number, false),
  insecure: (number) => byHttp(number, true),
  fetch: byFetch,
};

// A connection that breaks late is nobody's error any more.
process.on("uncaughtException", (error) => console.error(error.message));

(async () => {
  let next = 0;
  const asking = Array.from({ length: atOnce }, async () => {
    while (next < count) {
      const number = next++;
      const answers = {};
      for (const [name, ask] of Object.entries(clients)) answers[name] = await ask(number);
      console.log(JSON.stringify({ number, answers }));
    }
  });
  await Promise.all(asking);
  process.exit(0);
})();
