"""Which transformer block a node of an exported graph belongs to, and which value leaves a block."""

import re
from collections.abc import Collection

import onnx

from lora_deploy.export.graph import FLOATS, Graph

HEAD = frozenset({"fc_norm", "classifier"})
"""What comes after the encoder; and so do nodes of no module, which pool."""

_BLOCK = re.compile(
    r"""
    (?:\w+\.)*? (?: (?:layers?|self_attention_layers) \. \d+  # videomae.encoder.layer.3
                  | cross_attention_layer                     # of V-JEPA 2's pooler
                  | embeddings | layernorm ) (?=[./])
    | [^./]+ (?: \. [^./]+ )?                                 # classifier, vjepa2.encoder
    """,
    re.VERBOSE,
)


def block_of(node_name: str) -> str | None:
    """The block or part of a model that a node belongs to.

    Args:
        node_name: As `write_onnx` names nodes: the module, a slash, the operator.

    Returns:
        For example ``videomae.encoder.layer.3``, ``vivit.embeddings``, ``classifier``. None for
        a node that belongs to no module below the model itself.
    """
    if "/" not in node_name:
        return None
    found = _BLOCK.match(node_name)
    return found.group() if found else None


def is_head(node_name: str) -> bool:
    """Whether a node belongs to the classifier, or pools what it is given."""
    block = block_of(node_name)
    return block is None or block in HEAD


def block_outputs(model: onnx.ModelProto) -> dict[str, str]:
    """By block, in the order in which a clip runs through them, the value that leaves it.

    That is the residual stream: of the float values that are made inside and taken outside, or
    given by the graph, the last. Names of these values survive `in_half` and `in_int8`.
    """
    if not model.graph.value_info:
        model = onnx.shape_inference.infer_shapes(model)
    graph = Graph(model)
    given = graph.outputs
    last: dict[str, str] = {}
    for node in graph.nodes:
        block = block_of(node.name)
        if block is None:
            continue
        for value in node.output:
            outside = any(block_of(taker.name) != block for taker in graph.takers(value))
            if graph.element_type(value) in FLOATS and (outside or value in given):
                last.pop(block, None)  # its place is that of its last value
                last[block] = value
    return last


def check_blocks(model: onnx.ModelProto, keep: Collection[str]) -> None:
    """Refuse names that no block of the model bears.

    Raises:
        ValueError: There is one, which else would be left out of ``keep`` without a word; or no
            node says to which block it belongs, so that all would pass for the head.
    """
    known = [block for node in model.graph.node if (block := block_of(node.name))]
    if not known:
        raise ValueError("the nodes of this graph bear no names of modules; export it anew")
    unknown = sorted(set(keep) - set(known))
    if unknown:
        raise ValueError(
            f"no block is called {', '.join(unknown)}; there are {', '.join(dict.fromkeys(known))}"
        )
