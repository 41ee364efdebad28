"""Gossip of endpoints on loopback."""

from proofyard.discovery import Gossip
from proofyard.protocol.routes import Route


def at(endpoint):
    return Route("direct", endpoint.host, endpoint.port)


def gossip_of(endpoint, *seeds, **options):
    found = tuple((each.address, (at(each),)) for each in seeds)
    options.setdefault("routes", lambda: (at(endpoint),))
    return Gossip(endpoint, seeds=lambda: found, here=True, **options)
