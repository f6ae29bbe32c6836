"""A graph reads well: nodes bear the names of their modules, and each block gives one value."""

import numpy as np
import onnx
import pytest

from lora_deploy.export.blocks import block_of, block_outputs, check_blocks, is_head
from lora_deploy.export.graph import Graph, copy_of
from lora_deploy.export.half import in_half
from lora_deploy.export.quantize import in_int8
from tests.tiny_graphs import MODEL_TYPES

BLOCKS = {
    "videomae": [
        "videomae.embeddings", "videomae.encoder.layer.0", "videomae.encoder.layer.1", "fc_norm",
        "classifier",
    ],
    "timesformer": [
        "timesformer.embeddings", "timesformer.encoder.layer.0", "timesformer.encoder.layer.1",
        "timesformer.layernorm", "classifier",
    ],
    "vivit": [
        "vivit.embeddings", "vivit.layers.0", "vivit.layers.1", "vivit.layernorm", "classifier",
    ],
    "vjepa2": [
        "vjepa2.encoder.embeddings", "vjepa2.encoder.layer.0", "vjepa2.encoder.layer.1",
        "vjepa2.encoder.layernorm", "pooler.self_attention_layers.0",
        "pooler.cross_attention_layer", "pooler", "classifier",
    ],
}  # fmt: skip


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_node_bears_a_name_of_its_own_and_of_its_module(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    names = [node.name for node in tiny_graphs[model_type].graph.node]
    assert len(set(names)) == len(names)
    unnamed = {name for name in names if "/" not in name}
    assert unnamed <= {"ReduceMean", "Gather", "Shape", "Squeeze"}
    assert names[-1] == "classifier/Gemm"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_each_block_gives_the_residual_stream(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    outputs = block_outputs(tiny_graphs[model_type])
    assert list(outputs) == BLOCKS[model_type]
    makers = {node.output[0]: node.op_type for node in tiny_graphs[model_type].graph.node}
    layers = [
        value for block, value in outputs.items() if ".layer" in block and block[-1].isdigit()
    ]
    assert {makers[value] for value in layers} == {"Add"}
    assert outputs["classifier"] == "logits"


def test_blocks_are_found_in_a_graph_that_tells_no_types(
    tiny_graphs: dict[str, onnx.ModelProto],
) -> None:
    bare = onnx.ModelProto()
    bare.CopyFrom(tiny_graphs["videomae"])
    del bare.graph.value_info[:]
    assert block_outputs(bare) == block_outputs(tiny_graphs["videomae"])


def test_what_only_a_block_itself_takes_does_not_leave_it() -> None:
    steps = [
        ("a.layer.0/Relu", "Relu", "given", "stream"),
        ("a.layer.0/Exp", "Exp", "stream", "inner"),  # made later, and not taken outside
        ("a.layer.0/Shape", "Shape", "inner", "sizes"),
        ("a.layer.1/Relu", "Relu", "stream", "result"),
        ("a.layer.1/Identity", "Identity", "sizes", "kept"),
    ]
    nodes = [onnx.helper.make_node(op, [i], [o], name=name) for name, op, i, o in steps]
    ends = [
        onnx.helper.make_tensor_value_info(name, kind, [2] if name != "kept" else [1])
        for name, kind in (("given", 1), ("result", 1), ("kept", 7))
    ]
    graph = onnx.helper.make_graph(nodes, "graph", ends[:1], ends[1:])
    assert block_outputs(onnx.helper.make_model(graph)) == {
        "a.layer.0": "stream",
        "a.layer.1": "result",
    }


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("videomae.encoder.layer.11.attention.attention/MatMul_1", "videomae.encoder.layer.11"),
        ("videomae.embeddings.patch_embeddings.projection/Conv", "videomae.embeddings"),
        ("timesformer.encoder.layer.3.temporal_attention.attention.qkv/MatMul",
         "timesformer.encoder.layer.3"),
        ("vivit.layers.10/Add", "vivit.layers.10"),
        ("vjepa2.encoder.layer.23.mlp.fc1/MatMul", "vjepa2.encoder.layer.23"),
        ("pooler.cross_attention_layer.mlp.fc1/MatMul", "pooler.cross_attention_layer"),
        ("pooler/Squeeze", "pooler"),
        ("fc_norm/LayerNormalization", "fc_norm"),
        ("ReduceMean", None),
    ],
)  # fmt: skip
def test_a_node_name_tells_its_block(name: str, block: str | None) -> None:
    assert block_of(name) == block


def test_pooling_and_classifier_are_the_head() -> None:
    assert is_head("ReduceMean")
    assert is_head("classifier/Gemm")
    assert not is_head("videomae.encoder.layer.0.output.dense/MatMul")


def test_a_block_that_is_not_there_is_no_silent_wish(
    tiny_graphs: dict[str, onnx.ModelProto],
) -> None:
    check_blocks(tiny_graphs["vivit"], ["vivit.layers.0"])
    with pytest.raises(ValueError, match=r"vivit\.layers\.7; there are vivit\.embeddings"):
        check_blocks(tiny_graphs["vivit"], ["vivit.layers.7"])


def test_a_graph_without_names_is_not_taken_for_one_large_head(
    tiny_graphs: dict[str, onnx.ModelProto],
) -> None:
    nameless = copy_of(tiny_graphs["videomae"])
    for number, node in enumerate(nameless.graph.node):
        node.name = f"node_{number}"
    for change in (in_half, lambda graph: in_int8(graph, [])):
        with pytest.raises(ValueError, match="bear no names of modules"):
            change(nameless)


def test_a_constant_is_not_replaced_by_another_of_the_same_name(
    tiny_graphs: dict[str, onnx.ModelProto],
) -> None:
    graph = Graph(copy_of(tiny_graphs["videomae"]))
    graph.store("table", np.arange(3))
    graph.store("table", np.arange(3))
    with pytest.raises(ValueError, match="table is stored already, with other values"):
        graph.store("table", np.arange(1, 4))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_attention_and_activation_are_one_node_each(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    nodes = list(tiny_graphs[model_type].graph.node)
    attentions = [node for node in nodes if node.op_type == "Attention"]
    # V-JEPA 2's pooler asks with one query, which is written out.
    assert len(attentions) == {"videomae": 2, "timesformer": 0, "vivit": 2, "vjepa2": 3}[model_type]
    assert {len(node.input) for node in attentions} <= {3}  # no mask
    assert not any(node.op_type == "Tanh" for node in nodes)
    assert sum(node.op_type == "Gelu" for node in nodes) == (4 if model_type == "vjepa2" else 2)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_no_path_of_this_computer_is_in_a_graph(
    model_type: str, tiny_graphs: dict[str, onnx.ModelProto]
) -> None:
    content = tiny_graphs[model_type].SerializeToString()
    assert b"site-packages" not in content
    assert b".py" not in content
