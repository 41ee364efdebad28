"""Who is there, and who has what: records that peers pass on to each other, bounded so that nobody fills them."""

from proofyard.discovery.gossip import Gossip
from proofyard.discovery.table import PeerTable

__all__ = ["Gossip", "PeerTable"]
