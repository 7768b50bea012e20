"""XID numbers: what NVIDIA's driver means when it reports one, and which of them speak of the card itself.

Meanings are those of NVIDIA's catalogue (docs.nvidia.com/deploy/xid-errors, "Analyzing Xid Errors with the Xid
Catalog"; 94, 95, 160, 171 and 172 from docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt). An XID is *mild* when an
application can cause it on a sound card: the list that NVIDIA's own Kubernetes device plugin leaves a card healthy
with (``internal/rm/health.go``). Every other number, known here or not, is grave.
"""

from typing import Final

XID_MEANINGS: Final[dict[int, str]] = {
    13: "graphics engine exception",
    31: "GPU memory page fault",
    32: "invalid or corrupted push buffer stream",
    38: "driver firmware error",
    43: "GPU stopped processing",
    45: "preemptive cleanup, due to previous errors",
    48: "double bit ECC error",
    61: "internal micro-controller breakpoint or warning",
    62: "internal micro-controller halt",
    63: "ECC page retirement or row remapping recorded",
    64: "ECC page retirement or row remapping could not be recorded",
    68: "video decoder exception",
    69: "graphics engine class error",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "high single-bit ECC error rate",
    94: "contained ECC error",
    95: "uncontained ECC error",
    109: "context switch timeout",
    119: "GSP RPC timeout",
    120: "GSP error",
    140: "unrecovered ECC error",
    154: "GPU recovery action changed",
    160: "GPU memory marked for repair",
    171: "uncorrectable ECC error in DRAM",
    172: "uncorrectable ECC error in SRAM",
}
XID_MILD: Final = frozenset((13, 31, 43, 45, 68, 109))


def xid_meaning(xid: int) -> str:
    """NVIDIA's meaning in a few words; a number that is not in the table says so."""
    return XID_MEANINGS.get(xid, "not in this table, see NVIDIA's XID catalogue")
