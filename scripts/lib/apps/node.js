// A receiver in Node: `node node.js SETTINGS`, with a port, its log and its version of TLS for each listener.
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const path = require("node:path");

const { folder, host, large, listeners } = JSON.parse(process.argv[2]);

function receiver(log) {
  const arrived = fs.openSync(log, "a");
  return (request, response) => {
    const { headers, socket, url } = request;
    const answer = (status, text, fields = {}) => {
      const port = headers["x-client-port"] ?? socket.remotePort;
      fs.writeSync(arrived, `${headers["x-decnet-event-id"] ?? "-"} ${status} ${port}\n`);
      response.writeHead(status, fields).end(text);
    };
    const close = url.endsWith("-close") ? { Connection: "close" } : {};
    // Early answers: the body is not waited for.
    if (url.startsWith("/large") && Number(headers["content-length"]) > large) return answer(413, "large", close);
    if (url.startsWith("/gone")) return answer(410, "gone", close);
    request.on("end", () => answer(200, "ok")).resume();
  };
}

for (const [port, { log, tls }] of Object.entries(listeners)) {
  const options = tls && {
    key: fs.readFileSync(path.join(folder, "leaf.key")),
    cert: fs.readFileSync(path.join(folder, "leaf.pem")),
    minVersion: tls,
    maxVersion: tls,
  };
  const server = tls ? https.createServer(options, receiver(log)) : http.createServer(receiver(log));
  server.keepAliveTimeout = 1000;
  server.maxRequestsPerSocket = 10;
  server.listen(Number(port), host);
}
