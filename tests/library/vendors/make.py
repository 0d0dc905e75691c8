"""As make.mjs, with the vendors' libraries for Python."""

import json
import sys
import time
from datetime import datetime, timezone

from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook as Standard
from stripe import WebhookSignature
from svix import Webhook as Svix


def stripe(secret, _id, body):
    at = str(int(time.time()))
    return {"Stripe-Signature": f"t={at},v1={WebhookSignature._compute_signature(f'{at}.{body}', secret)}"}


def slack(secret, _id, body):
    at = str(int(time.time()))
    signature = SignatureVerifier(secret).generate_signature(timestamp=at, body=body)
    return {"X-Slack-Request-Timestamp": at, "X-Slack-Signature": signature}


def standard(library, prefix):
    def make(secret, id, body):
        now = datetime.now(timezone.utc)
        signature = library(secret).sign(id, now, body)
        return {f"{prefix}-id": id, f"{prefix}-timestamp": str(int(now.timestamp())), f"{prefix}-signature": signature}

    return make


def event(id, body):
    attributes = {
        "id": id,
        "source": "/python",
        "type": "com.example.made",
        "subject": "größe 1",
        "time": datetime(2026, 9, 21, 14, 13, 20, tzinfo=timezone.utc),
        "datacontenttype": "application/json",
        "specversion": "1.0",
        "comexampleextension": 'a "b" %',
    }
    return CloudEvent(attributes, json.loads(body))


LIBRARIES = {"stripe": stripe, "slack": slack, "standardwebhooks": standard(Standard, "webhook"), "svix": standard(Svix, "svix")}
CLOUDEVENTS = {"cloudevents_structured": to_structured_event, "cloudevents_binary": to_binary_event}

requests = []
for one in json.load(sys.stdin):
    if one["library"] in CLOUDEVENTS:
        made = CLOUDEVENTS[one["library"]](event(one["id"], one["body"]))
        body = made.body if isinstance(made.body, str) else made.body.decode()
        requests.append({"headers": dict(made.headers), "body": body})
    else:
        headers = LIBRARIES[one["library"]](one["secret"], one["id"], one["body"])
        requests.append({"headers": {"content-type": "application/json", **headers}, "body": one["body"]})
print(json.dumps(requests))
