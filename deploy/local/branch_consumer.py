"""A branch that works over Kafka: reads its topic, prints each order, accepts it and answers it. An example to copy.

    python -m deploy.local.branch_consumer jinan [.data/run.json]

It needs a Kafka client, JSON and HMAC, and nothing of ours. Delivery is at least once: `ce_id` tells what was seen, and
the id of a command is made from the id of the order, so that dispatch drops a command it has seen even when this
program starts again from the beginning of its topic. To a Kafka with users it is `gongdan.branch.<id>` and signs each
command with the branch's reply key. With real Kafka use the group `gongdan.branch.<id>` and commit what is done.
"""

import asyncio
import base64
import hmac
import json
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer


def signature(key: str, attributes: dict[str, str], value: bytes) -> bytes:
    """HMAC-SHA256 of five attributes and the value, each with its length in bytes before it: `36:…,`."""
    signed = [attributes[name].encode() for name in ("ce_id", "ce_type", "ce_subject", "ce_source", "ce_time")]
    text = b"".join(b"%d:%b," % (len(part), part) for part in (*signed, value))
    return base64.b64encode(hmac.digest(base64.b64decode(key), text, "sha256"))


def command(kind: str, order: dict[str, str], branch: str, data: dict[str, Any], key: str | None) -> dict[str, Any]:
    """A CloudEvent in Kafka's binary mode: attributes as headers, the data as JSON, the ticket's id as key."""
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": str(uuid5(UUID(order["ce_id"]), kind)),
        "ce_source": f"/gongdan/branch/{branch}",
        "ce_type": kind,
        "ce_subject": order["ce_subject"],
        "ce_time": datetime.now(UTC).isoformat(),
    }
    headers = [(name, text.encode()) for name, text in attributes.items()]
    value = json.dumps({"branch": branch, "actor": "branch_consumer", **data}).encode()
    if key is not None:
        headers.append(("ce_signature", signature(key, attributes, value)))
    return {"key": order["ce_subject"].encode(), "headers": headers, "value": value}


def connection(branch: str, kafka: dict[str, Any]) -> dict[str, Any]:
    """The Kafka client's options, from the part `kafka` of the run file."""
    options = {"bootstrap_servers": kafka["bootstrap_servers"]}
    if kafka["security"] == "none":
        return options
    user = f"gongdan.branch.{branch}"
    return options | {
        "security_protocol": kafka["security_protocol"],
        "ssl_context": ssl.create_default_context(cafile=kafka["ca_file"]),
        "sasl_mechanism": kafka["sasl_mechanism"],
        "sasl_plain_username": user,
        "sasl_plain_password": kafka["passwords"][user],
    }


async def serve(branch: str, kafka: dict[str, Any]) -> None:
    seen: set[str] = set()
    options, key = connection(branch, kafka), kafka["reply_keys"].get(branch)
    reader = AIOKafkaConsumer(f"gongdan.dispatch.{branch}", **options, auto_offset_reset="earliest")
    async with reader, AIOKafkaProducer(**options, acks="all") as writer:
        async for record in reader:
            order = {name: value.decode() for name, value in record.headers}
            if order["ce_id"] not in seen:
                print(order["ce_type"], json.dumps(json.loads(record.value), ensure_ascii=False, indent=2), flush=True)
                if order["ce_type"] == "order.dispatched":
                    reply = {"process": "现场测试并修复", "content": "信号已恢复", "satisfaction": "satisfied"}
                    reply |= {"replier": "值班员", "replied_at": datetime.now(UTC).isoformat()}
                    for kind, data in (("order.accept", {}), ("order.reply", {"reply": reply})):
                        await writer.send_and_wait("gongdan.branch.replies", **command(kind, order, branch, data, key))
                seen.add(order["ce_id"])


if __name__ == "__main__":
    branch_id, run_file = (*sys.argv[1:], ".data/run.json")[:2] if sys.argv[1:] else ("jinan", ".data/run.json")
    asyncio.run(serve(branch_id, json.loads(Path(run_file).read_text("utf-8"))["kafka"]))
