"""Having the router of a home map a port: by PCP, by NAT-PMP, or by UPnP-IGD where it speaks neither."""

from proofyard.transport.mapping.claims import Mapping, is_public
from proofyard.transport.mapping.mapper import Mapper

__all__ = ["Mapper", "Mapping", "is_public"]
