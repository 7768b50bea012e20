"""Errors of the interface document: whose fault a failure is, is its type.

Everything here is about bytes or values that came from the other side. Mistakes of an operator in
configuration are plain ``ValueError``; broken invariants of ours are ``assert``.

    LinkError
    ├── FrameError          bytes between delimiters are no frame
    ├── PacketError         a frame's payload is no packet of ours
    ├── BodyError           the packet is whole, its msgpack body is not what the dictionary says
    ├── ArgumentError       a telecommand's arguments are refused (``FailureCode.BAD_ARGUMENT``)
    └── TableError          a table, sequence or parameter set is refused (``FailureCode.INVALID_TABLE``)
        └── TableInUseError  it cannot be replaced now (``FailureCode.WRONG_STATE``)
"""


class LinkError(Exception):
    """Base of every complaint about what the peer sent."""


class FrameError(LinkError):
    """COBS, length or delimiter rules are broken."""


class PacketError(LinkError):
    """Header, length or CRC of a space packet is wrong."""


class BodyError(LinkError):
    """A packet body does not decode to what the dictionary announces."""


class ArgumentError(LinkError):
    """A telecommand argument is missing, unknown, of the wrong type or out of its range."""


class TableError(LinkError):
    """An image of a table is damaged, or its content is not allowed."""


class TableInUseError(TableError):
    """What a table holds is running: its image cannot be replaced now."""
