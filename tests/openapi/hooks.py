"""What schemathesis has to be told: how JSON lines are written."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    """One object a line; here one line."""
    return {"data": json.dumps(value).encode()}
