// Reads cases as a JSON array from standard input, verifies each with its vendor's own library, and prints the results.
// A case: {"library", "secrets": the newest first, "headers": by lower-case name, "body"}.
// A result: {"ok"} or {"ok": false, "reason"}.
import { readFileSync } from "node:fs";
import "@shopify/shopify-api/adapters/node";
import { ApiVersion, shopifyApi } from "@shopify/shopify-api";
import { Webhooks } from "@octokit/webhooks";
import { verifyWithFallback } from "@octokit/webhooks-methods";
import { Webhook as Standard } from "standardwebhooks";
import Stripe from "stripe";
import { Webhook as Svix } from "svix";

const libraries = {
  stripe: ({ secrets, headers, body }) =>
    new Stripe("sk_test_none").webhooks.constructEvent(body, headers["stripe-signature"], secrets[0]),
  octokit: async ({ secrets, headers, body }) => {
    const [secret, ...additionalSecrets] = secrets;
    const signature = headers["x-hub-signature-256"];
    // The second is what the first does with `additionalSecrets` for requests that it receives itself.
    const ok = additionalSecrets.length
      ? await verifyWithFallback(secret, body, signature, additionalSecrets)
      : await new Webhooks({ secret }).verify(body, signature);
    if (!ok) throw new Error("the signature does not match");
    for (const name of ["x-github-event", "x-github-delivery"]) if (!headers[name]) throw new Error(`no ${name}`);
  },
  shopify: async ({ secrets, headers, body }) => {
    const shopify = shopifyApi({
      apiKey: "key",
      apiSecretKey: secrets[0],
      apiVersion: Object.values(ApiVersion)[0],
      hostName: "receiver.example",
      isEmbeddedApp: false,
      logger: { log: () => {} },
    });
    const rawRequest = { method: "POST", url: "/hook", headers };
    const found = await shopify.webhooks.validate({ rawBody: body, rawRequest, rawResponse: {} });
    if (!found.valid) throw new Error(JSON.stringify(found));
  },
  standardwebhooks: ({ secrets, headers, body }) => new Standard(secrets[0]).verify(body, headers),
  svix: ({ secrets, headers, body }) => new Svix(secrets[0]).verify(body, headers),
};

const results = [];
for (const one of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    await libraries[one.library](one);
    results.push({ ok: true });
  } catch (error) {
    results.push({ ok: false, reason: String(error.message ?? error) });
  }
}
console.log(JSON.stringify(results));
