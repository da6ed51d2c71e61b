"""The floor: a bare FastAPI endpoint that reads the same body into a Pydantic model and answers the same size.

python -m tests.bench.bare PORT
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response

app = FastAPI()


class Customer(BaseModel):
    phone: str
    tier: str
    brand: str
    home_city: str


class Place(BaseModel):
    city: str
    district: str
    address: str


class Body(BaseModel):
    channel: str
    kind: str
    category: str
    customer: Customer
    content: str
    place: Place
    elements: dict[str, Any]


class Answer(BaseModel):
    ticket_id: str
    ticket_no: str
    status: str
    version: int
    links: dict[str, str]


@app.post("/v1/tickets", status_code=201)
async def register(body: Body) -> Answer:
    links = {"self": "/v1/tickets/T20261122-0000001", "timeline": "/v1/tickets/T20261122-0000001/timeline"}
    return Answer(ticket_id="0" * 36, ticket_no="T20261122-0000001", status=body.kind[:10], version=1, links=links)


@app.get("/empty", status_code=204)
async def empty() -> Response:
    """FastAPI's own cost: nothing to read, nothing to check, nothing to answer."""
    return Response(status_code=204)


def serve(app: FastAPI, port: int) -> None:
    """One process on uvloop and httptools, without an access log: what the services use too."""
    uvicorn.run(
        app, host="127.0.0.1", port=port, access_log=False, log_level="warning", loop="uvloop", http="httptools"
    )


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
