"""Writes request.bin from request.json by OpenTelemetry's own messages:

    pip install opentelemetry-proto && python3 make.py

It is what the encoder of src/telemetry/otlp has to write for the same spans. (A library that is newer
and knows more fields writes the same bytes.)
"""

import pathlib

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

folder = pathlib.Path(__file__).parent
request = trace_service_pb2.ExportTraceServiceRequest()
json_format.Parse((folder / "request.json").read_text("utf-8"), request)
(folder / "request.bin").write_bytes(request.SerializeToString(deterministic=True))
