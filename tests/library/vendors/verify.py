"""As verify.mjs, with the vendors' libraries for Python."""

import json
import sys

from convoy.utils.webhook import Webhook as Convoy
from hook0 import signature as hook0
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook as Standard
from stripe import Webhook as Stripe
from svix import Webhook as Svix


def expect(found):
    # Convoy's returns the text of an error in place of raising it.
    if found is not True:
        raise ValueError(found)


LIBRARIES = {
    "stripe": lambda secret, headers, body: Stripe.construct_event(body, headers["stripe-signature"], secret),
    "slack": lambda secret, headers, body: expect(SignatureVerifier(secret).is_valid_request(body, headers)),
    "convoy_simple": lambda secret, headers, body: expect(
        Convoy(secret).verify_signature(body, headers["x-convoy-signature"])
    ),
    "hook0": lambda secret, headers, body: expect(hook0.verify_webhook_signature(
        headers["x-hook0-signature"], body.encode(), headers, secret, 300)
    ),
    "standardwebhooks": lambda secret, headers, body: Standard(secret).verify(body, headers),
    "svix": lambda secret, headers, body: Svix(secret).verify(body, headers),
}

results = []
for one in json.load(sys.stdin):
    try:
        LIBRARIES[one["library"]](one["secrets"][0], one["headers"], one["body"])
        results.append({"ok": True})
    except Exception as error:
        results.append({"ok": False, "reason": f"{type(error).__name__}: {error}"})
print(json.dumps(results))
