// Reads cases as a JSON array from standard input, makes the request of each with its vendor's own library, and prints the
// requests. A case: {"library", "secret", "id", "body"}. A request: {"headers": by name, "body"}.
import { readFileSync } from "node:fs";
import { sign } from "@octokit/webhooks-methods";
import { CloudEvent, HTTP } from "cloudevents";
import { Webhook as Standard } from "standardwebhooks";
import Stripe from "stripe";
import { Webhook as Svix } from "svix";

const JSON_TYPE = { "content-type": "application/json" };

const seconds = (date) => String(Math.floor(date.getTime() / 1000));
const event = (id, data) =>
  new CloudEvent({
    id, source: "/node", type: "com.example.made", subject: "größe 1", time: "2026-09-21T14:13:20.000Z",
    comexampleextension: "a \"b\" %", data,
  });

const libraries = {
  stripe: ({ secret, body }) => ({
    "Stripe-Signature": new Stripe("sk_test_none").webhooks.generateTestHeaderString({ payload: body, secret }),
  }),
  octokit: async ({ secret, id, body }) => ({
    "X-Hub-Signature-256": await sign(secret, body), "X-GitHub-Event": "push", "X-GitHub-Delivery": id,
  }),
  standardwebhooks: ({ secret, id, body }) => {
    const now = new Date();
    return { "webhook-id": id, "webhook-timestamp": seconds(now), "webhook-signature": new Standard(secret).sign(id, now, body) };
  },
  svix: ({ secret, id, body }) => {
    const now = new Date();
    return { "svix-id": id, "svix-timestamp": seconds(now), "svix-signature": new Svix(secret).sign(id, now, body) };
  },
};

const cloudevents = {
  cloudevents_structured: ({ id, body }) => HTTP.structured(event(id, JSON.parse(body))),
  cloudevents_binary: ({ id, body }) => HTTP.binary(event(id, JSON.parse(body))),
};

const requests = [];
for (const one of JSON.parse(readFileSync(0, "utf8"))) {
  if (cloudevents[one.library]) {
    const { headers, body } = cloudevents[one.library](one);
    requests.push({ headers, body: typeof body === "string" ? body : JSON.stringify(body) });
  } else {
    requests.push({ headers: { ...JSON_TYPE, ...(await libraries[one.library](one)) }, body: one.body });
  }
}
console.log(JSON.stringify(requests));
