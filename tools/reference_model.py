#!/usr/bin/env python3
"""Switchyard's model in NumPy (f64): a second opinion, written from the formulas.

    tools/reference_model.py            writes tests/golden/<case>.{json,safetensors}
    tools/reference_model.py --check    recomputes the cases and compares them with the files

Each case is a configuration file and a safetensors file with
    <parameter>                    f64, global tensors under the names of the model; Linear weights
                                   are (outputs, inputs), expert weights (E, outputs, inputs);
                                   ...gate.e_score_correction_bias has no gradient
    input.token_ids, .targets      i32 (B, S); target -100: does not count
    output.logits, .hidden         f64 (B, S, V), (B, S, D): hidden is the input of the LM head
    output.lm_loss                 f64, mean over the targets that count
    output.load_balancing_loss,    f64, mean over the MoE layers, without their coefficients
    output.z_loss
    output.dropped                 f64, choices dropped for lack of capacity, over all layers
    output.layers.<l>.experts      i32 (B * S, k): experts of each token before drops, best first
    output.layers.<l>.kept         the same, -1 where dropped
    gradient.index.<parameter>     i32, some elements of the flattened parameter, and
    gradient.value.<parameter>     f64, d(lm_loss + coef * sum over layers of balance losses
                                   + coef * sum over layers of z-losses) / d(element)

The legend of the array suffixes is that of src/README.md.
"""

import argparse
import json
import math
import pathlib
import struct
import sys

import numpy as np

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
IGNORED_TARGET = -100
END_OF_DOCUMENT = 256
GRADIENT_ELEMENTS = 8  # per parameter
BIAS = ".e_score_correction_bias"  # no parameter: training moves it, not a gradient


# ---- The cases -----------------------------------------------------------------------------------


def make_case(batch_size, sequence_length, model, moe=None, data=None):
    """A configuration file of Switchyard; `model`, `moe` and `data` override what is here."""
    return {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": 1,
        "model": {
            "vocab_size": 23,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 20,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            **model,
        },
        "moe": {"enabled": False} if moe is None else {
            "enabled": True,
            "num_experts": 4,
            "top_k": 2,
            "expert_activation": "swiglu",
            "load_balancing_loss_coef": 0.1,
            "load_balancing_scope": "sequence",
            "z_loss_coef": 0.0,
            "token_drop_policy": "dropless",
            **moe,
        },
        "data": {"path": "unused", "sequence_length": sequence_length, **(data or {})},
        "fp64": {"enabled": True},
    }


CASES = {
    "dense": make_case(2, 12, {"num_hidden_layers": 3}),
    "moe_top1": make_case(2, 12, {"moe_intermediate_size": 12}, {"top_k": 1}),
    "moe_top2": make_case(
        3, 10, {"moe_intermediate_size": 10, "num_key_value_heads": 4},
        {"num_experts": 6, "load_balancing_scope": "micro_batch"}),
    "moe_top3_unnormalised": make_case(
        2, 8, {"moe_intermediate_size": 8},
        {"num_experts": 6, "top_k": 3, "norm_topk_prob": False, "z_loss_coef": 0.02}),
    "tied_shared_expert_z_loss": make_case(
        2, 12, {"tie_word_embeddings": True, "moe_intermediate_size": 12},
        {"num_shared_experts": 1, "shared_expert_intermediate_size": 14, "z_loss_coef": 0.05}),
    "relu_top1": make_case(
        2, 12, {"num_hidden_layers": 3},
        {"top_k": 1, "expert_activation": "relu", "layer_freq": 2}),
    "gelu": make_case(2, 12, {"rope_theta": 100.0, "rms_norm_eps": 1e-2},
                      {"expert_activation": "gelu"}),
    "capacity_probs_sequence": make_case(
        3, 11, {},
        {"token_drop_policy": "capacity", "drop_order": "probs", "capacity_scope": "sequence",
         "capacity_factor": 0.75, "min_capacity": 1}),
    "capacity_probs_micro_batch": make_case(
        3, 8, {},
        {"token_drop_policy": "capacity", "drop_order": "probs", "capacity_scope": "micro_batch",
         "capacity_factor": 0.6, "min_capacity": 1}),
    "capacity_position_micro_batch": make_case(
        3, 9, {},
        {"token_drop_policy": "capacity", "drop_order": "position",
         "capacity_scope": "micro_batch", "load_balancing_scope": "micro_batch",
         "capacity_factor": 0.7, "min_capacity": 1}),
    "capacity_position_min_capacity": make_case(
        2, 12, {},
        {"top_k": 1, "token_drop_policy": "capacity", "drop_order": "position",
         "capacity_scope": "sequence", "capacity_factor": 0.5, "min_capacity": 4}),
    "document_mask": make_case(
        2, 12, {"vocab_size": 257, "hidden_size": 16, "tie_word_embeddings": True},
        {}, {"document_mask": True, "eod_mask_loss": True}),
    "layer_list": make_case(
        2, 10, {"num_hidden_layers": 3, "num_key_value_heads": 1}, {"layer_freq": [0, 1, 1]}),
    "head_dim": make_case(2, 12, {"head_dim": 6}, {}),
    "sigmoid_groups_bias": make_case(
        3, 9, {"moe_intermediate_size": 6},
        {"router": "sigmoid", "num_experts": 8, "top_k": 3, "n_group": 4, "topk_group": 2,
         "router_bias_update_rate": 0.001, "routed_scaling_factor": 2.5, "z_loss_coef": 0.02}),
    "sigmoid_top1": make_case(
        2, 12, {}, {"router": "sigmoid", "top_k": 1, "load_balancing_scope": "micro_batch"}),
    "softmax_groups_scaled": make_case(
        3, 8, {"moe_intermediate_size": 8},
        {"num_experts": 6, "top_k": 2, "n_group": 3, "topk_group": 1, "norm_topk_prob": False,
         "routed_scaling_factor": 1.5, "router_bias_update_rate": 0.01,
         "load_balancing_scope": "global_batch", "token_drop_policy": "capacity",
         "drop_order": "probs", "capacity_scope": "sequence", "capacity_factor": 0.75,
         "min_capacity": 1}),
    "sinkhorn_top1": make_case(
        2, 12, {"moe_intermediate_size": 12},
        {"router": "sinkhorn", "top_k": 1, "load_balancing_loss_coef": 0.0, "z_loss_coef": 0.02}),
    "sinkhorn_top2": make_case(
        3, 8, {"moe_intermediate_size": 12},
        {"router": "sinkhorn", "sinkhorn_iterations": 3, "load_balancing_loss_coef": 0.0,
         "load_balancing_scope": "micro_batch"}),
}


class Sizes:
    """What the configuration means, defaults filled in."""

    def __init__(self, config):
        model, moe, data = config["model"], config["moe"], config["data"]
        self.B, self.S = config["train_batch_size"], data["sequence_length"]
        self.D, self.V = model["hidden_size"], model["vocab_size"]
        self.H, self.K = model["num_attention_heads"], model["num_key_value_heads"]
        self.C = model.get("head_dim", self.D // self.H)
        assert self.C % 2 == 0, "rotary embeddings turn pairs"
        self.F = model["intermediate_size"]
        self.layers = model["num_hidden_layers"]
        self.tied = model["tie_word_embeddings"]
        self.is_moe = [False] * self.layers
        if moe["enabled"]:
            self.E, self.A = moe["num_experts"], moe["top_k"]
            self.expert_F = model.get("moe_intermediate_size", self.F)
            self.shared_F = moe.get("shared_expert_intermediate_size", 0)
            freq = moe.get("layer_freq", 1)
            self.is_moe = [bool(freq[l]) if isinstance(freq, list) else l % freq == 0
                           for l in range(self.layers)]


def parameter_shapes(config):
    z = Sizes(config)
    shapes = {"model.embed_tokens.weight": (z.V, z.D), "model.norm.weight": (z.D,)}
    if not z.tied:
        shapes["lm_head.weight"] = (z.V, z.D)

    def add_swiglu(name, width):
        shapes[name + ".gate_proj.weight"] = (width, z.D)
        shapes[name + ".up_proj.weight"] = (width, z.D)
        shapes[name + ".down_proj.weight"] = (z.D, width)

    for l in range(z.layers):
        layer = f"model.layers.{l}."
        shapes[layer + "input_layernorm.weight"] = (z.D,)
        shapes[layer + "post_attention_layernorm.weight"] = (z.D,)
        shapes[layer + "self_attn.q_proj.weight"] = (z.H * z.C, z.D)
        shapes[layer + "self_attn.k_proj.weight"] = (z.K * z.C, z.D)
        shapes[layer + "self_attn.v_proj.weight"] = (z.K * z.C, z.D)
        shapes[layer + "self_attn.o_proj.weight"] = (z.D, z.H * z.C)
        if not z.is_moe[l]:
            add_swiglu(layer + "mlp", z.F)
            continue
        shapes[layer + "mlp.gate.weight"] = (z.E, z.D)
        if config["moe"].get("router_bias_update_rate", 0) > 0:
            shapes[layer + "mlp.gate" + BIAS] = (z.E,)
        shapes[layer + "mlp.experts.gate_proj.weight"] = (z.E, z.expert_F, z.D)
        if config["moe"]["expert_activation"] == "swiglu":
            shapes[layer + "mlp.experts.up_proj.weight"] = (z.E, z.expert_F, z.D)
        shapes[layer + "mlp.experts.down_proj.weight"] = (z.E, z.D, z.expert_F)
        if z.shared_F:
            add_swiglu(layer + "mlp.shared_experts", z.shared_F)
    return shapes


def draw_weights(config, rng):
    """Large enough for every part of the model to matter; norms around 1."""
    weights = {}
    for name, shape in sorted(parameter_shapes(config).items()):
        normal = rng.standard_normal(shape)
        if name.endswith("norm.weight"):
            weights[name] = 1 + 0.3 * normal
        elif name == "model.embed_tokens.weight":
            weights[name] = 0.5 * normal
        elif name.endswith(BIAS):
            weights[name] = 0.2 * normal
        else:
            weights[name] = normal / math.sqrt(shape[-1])
    return weights


def draw_batch(config, rng):
    """Each target is the next token. Some do not count, unevenly over the sequences."""
    B, S = config["train_batch_size"], config["data"]["sequence_length"]
    tokens = rng.integers(0, min(config["model"]["vocab_size"], END_OF_DOCUMENT), (B, S + 1))
    if config["moe"].get("drop_order") == "probs":
        tokens[-1] = tokens[0]  # equal probabilities in two sequences
    if config["data"].get("document_mask"):
        tokens[0, [3, 4, 9]] = END_OF_DOCUMENT  # the second of these documents is empty
        tokens[1, [0, S - 1]] = END_OF_DOCUMENT
    ids, targets = tokens[:, :-1], tokens[:, 1:].copy()
    targets[-1, : S // 2] = IGNORED_TARGET
    targets[0, 2] = IGNORED_TARGET
    if config["data"].get("eod_mask_loss"):
        targets[ids == END_OF_DOCUMENT] = IGNORED_TARGET
    return ids, targets


# ---- The model -----------------------------------------------------------------------------------


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_sum_exp(x):
    largest = x.max(axis=-1)
    return largest + np.log(np.exp(x - largest[..., None]).sum(axis=-1))


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))


ACTIVATIONS = {"swiglu": silu, "relu": lambda x: np.maximum(x, 0), "gelu": gelu}


def swiglu(x, weights, name):
    gate = x @ weights[name + ".gate_proj.weight"].T
    up = x @ weights[name + ".up_proj.weight"].T
    return (silu(gate) * up) @ weights[name + ".down_proj.weight"].T


def rotate(x_SC, position_S, theta):
    """RoPE, half-split: channel i turns together with channel i + C/2."""
    half = x_SC.shape[-1] // 2
    angle = position_S[:, None] * theta ** (-np.arange(half) / half)
    a, b = x_SC[:, :half], x_SC[:, half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle),
                           b * np.cos(angle) + a * np.sin(angle)], axis=1)


def documents_of(tokens_S, config):
    """(first, position) of each token: where its document begins, and its place in it."""
    first, begin = [], 0
    for s, token in enumerate(tokens_S):
        first.append(begin)
        if config["data"].get("document_mask") and token == END_OF_DOCUMENT:
            begin = s + 1
    return np.array(first), np.arange(len(tokens_S)) - np.array(first)


def attention(x_SD, tokens_S, weights, name, config):
    z, theta = Sizes(config), config["model"]["rope_theta"]
    first, position = documents_of(tokens_S, config)
    row, column = np.arange(z.S)[:, None], np.arange(z.S)[None, :]
    visible = (column <= row) & (column >= first[:, None])

    def heads(projection, count):
        return np.split(x_SD @ weights[f"{name}.{projection}.weight"].T, count, axis=1)

    query, key, value = heads("q_proj", z.H), heads("k_proj", z.K), heads("v_proj", z.K)
    outputs = []
    for h in range(z.H):
        g = h // (z.H // z.K)
        scores = rotate(query[h], position, theta) @ rotate(key[g], position, theta).T
        scores = np.where(visible, scores / math.sqrt(z.C), -np.inf)
        outputs.append(softmax(scores) @ value[g])
    return np.concatenate(outputs, axis=1) @ weights[name + ".o_proj.weight"].T


def scopes_of(scope, z):
    """The slices of the batch's rows that a balance loss or a capacity is counted over."""
    width = z.S if scope == "sequence" else z.B * z.S  # a global batch of one micro-batch
    return [slice(begin, begin + width) for begin in range(0, z.B * z.S, width)]


def choose(key_TE, k):
    """The k experts of the largest key, best first, ties by lower index."""
    return np.argsort(-key_TE, axis=1, kind="stable")[:, :k]


def without_other_groups(key_TE, moe):
    """Minus infinity outside the groups whose two largest keys have the largest sums."""
    groups = moe.get("n_group", 1)
    key_TGE = key_TE.reshape(len(key_TE), groups, -1)
    of_group_TG = np.sort(key_TGE, axis=2)[:, :, -2:].sum(axis=2)
    allowed_TG = np.zeros_like(of_group_TG, dtype=bool)
    np.put_along_axis(allowed_TG, choose(of_group_TG, moe.get("topk_group", 1)), True, axis=1)
    return np.where(allowed_TG[:, :, None], key_TGE, -np.inf).reshape(key_TE.shape)


def sinkhorn(logits_TE, config):
    """exp(logits), scaled by expert so that in each scope all experts have about the same."""
    z, moe, key_TE = Sizes(config), config["moe"], np.empty_like(logits_TE)
    for rows in scopes_of(moe["load_balancing_scope"], z):
        cost_TE, of_expert = np.exp(logits_TE[rows]), np.ones(z.E)
        for _ in range(moe.get("sinkhorn_iterations", 8)):
            of_token = 1 / (len(cost_TE) * ((of_expert * cost_TE).sum(axis=1) + 1e-8))
            of_expert = 1 / (z.E * ((of_token[:, None] * cost_TE).sum(axis=0) + 1e-8))
        key_TE[rows] = of_expert * cost_TE
    return key_TE


def choose_experts(score_TE, logits_TE, bias_E, config):
    moe, k = config["moe"], Sizes(config).A
    if moe.get("router") == "sinkhorn":
        return choose(sinkhorn(logits_TE, config), k)
    return choose(without_other_groups(score_TE + bias_E, moe), k)


def scores(logits_TE, moe):
    """The scores of all experts, and the probabilities of the balance loss."""
    router = moe.get("router", "softmax")
    if router == "sigmoid" or (router == "sinkhorn" and moe["top_k"] == 1):
        score_TE = 1 / (1 + np.exp(-logits_TE))
        return score_TE, score_TE / score_TE.sum(axis=1, keepdims=True)
    return softmax(logits_TE), softmax(logits_TE)


def drop(expert_TA, score_TE, config):
    """-1 in place of the choices that exceed the capacity of their expert."""
    z, moe, kept = Sizes(config), config["moe"], expert_TA.copy()
    if moe["token_drop_policy"] == "dropless":
        return kept
    for rows in scopes_of(moe["capacity_scope"], z):
        tokens = range(rows.start, rows.stop)
        capacity = max(moe["min_capacity"],
                       math.ceil(moe["capacity_factor"] * z.A * len(tokens) / z.E))
        for e in range(z.E):
            choices = [(t, a) for t in tokens for a in range(z.A) if expert_TA[t, a] == e]
            if moe["drop_order"] == "probs":
                choices.sort(key=lambda c: (-round(score_TE[c[0], e] * 2**20), c[0]))
            else:
                choices.sort(key=lambda c: (c[1], c[0]))
            for t, a in choices[capacity:]:
                kept[t, a] = -1
    return kept


def balance_loss(expert_TA, probs_TE, config):
    """Mean over the scopes of E * sum over experts of (share of choices * mean probability)."""
    z, losses = Sizes(config), []
    for rows in scopes_of(config["moe"]["load_balancing_scope"], z):
        f = np.bincount(expert_TA[rows].ravel(), minlength=z.E) / expert_TA[rows].size
        losses.append(z.E * np.sum(f * probs_TE[rows].mean(axis=0)))
    return np.mean(losses)


def moe_layer(x_TD, weights, name, config, routes):
    """Returns the output, the balance loss, the z-loss and the routes (given, or chosen here)."""
    z, moe = Sizes(config), config["moe"]
    logits_TE = x_TD @ weights[name + ".gate.weight"].T
    score_TE, probs_TE = scores(logits_TE, moe)
    if routes is None:
        bias_E = weights.get(name + ".gate" + BIAS, 0.0)
        expert_TA = choose_experts(score_TE, logits_TE, bias_E, config)
        routes = expert_TA, drop(expert_TA, score_TE, config)
    expert_TA, kept_TA = routes

    weight_TA = np.take_along_axis(score_TE, expert_TA, axis=1)
    if z.A > 1 and moe.get("norm_topk_prob", True):
        weight_TA = weight_TA / weight_TA.sum(axis=1, keepdims=True)
    weight_TA = weight_TA * moe.get("routed_scaling_factor", 1.0)

    out_TD = np.zeros_like(x_TD)
    experts = {part: weights.get(f"{name}.experts.{part}_proj.weight")
               for part in ("gate", "up", "down")}
    for e in range(z.E):
        token, slot = np.nonzero(kept_TA == e)
        hidden = ACTIVATIONS[moe["expert_activation"]](x_TD[token] @ experts["gate"][e].T)
        if experts["up"] is not None:
            hidden = hidden * (x_TD[token] @ experts["up"][e].T)
        out_TD[token] += (weight_TA[token, slot, None] * hidden) @ experts["down"][e].T
    if z.shared_F:
        out_TD = out_TD + swiglu(x_TD, weights, name + ".shared_experts")
    z_loss = np.mean(log_sum_exp(logits_TE) ** 2)
    return out_TD, balance_loss(expert_TA, probs_TE, config), z_loss, routes


def forward(weights, ids_BS, targets_BS, config, given_routes=None):
    """All outputs of a case. `given_routes` (layer -> routes) freezes the choice of experts."""
    z, eps = Sizes(config), config["model"]["rms_norm_eps"]
    x_BSD = weights["model.embed_tokens.weight"][ids_BS]
    balance, z_losses, routes = [], [], {}
    for l in range(z.layers):
        layer = f"model.layers.{l}."
        h_BSD = rms_norm(x_BSD, weights[layer + "input_layernorm.weight"], eps)
        x_BSD = x_BSD + np.stack(
            [attention(h_BSD[b], ids_BS[b], weights, layer + "self_attn", config)
             for b in range(z.B)])
        h_BSD = rms_norm(x_BSD, weights[layer + "post_attention_layernorm.weight"], eps)
        h_TD = h_BSD.reshape(-1, z.D)
        if z.is_moe[l]:
            y_TD, balance_of_layer, z_of_layer, routes[l] = moe_layer(
                h_TD, weights, layer + "mlp", config, given_routes and given_routes[l])
            balance.append(balance_of_layer)
            z_losses.append(z_of_layer)
        else:
            y_TD = swiglu(h_TD, weights, layer + "mlp")
        x_BSD = x_BSD + y_TD.reshape(x_BSD.shape)

    hidden_BSD = rms_norm(x_BSD, weights["model.norm.weight"], eps)
    head_VD = weights["model.embed_tokens.weight" if z.tied else "lm_head.weight"]
    logits_BSV = hidden_BSD @ head_VD.T
    counts = targets_BS != IGNORED_TARGET
    log_probs = logits_BSV - log_sum_exp(logits_BSV)[..., None]
    lm_loss = -np.mean(log_probs[counts, targets_BS[counts]])
    return {"hidden": hidden_BSD, "logits": logits_BSV, "lm_loss": lm_loss, "balance": balance,
            "z": z_losses, "routes": routes}


def total_loss(result, config):
    moe = config["moe"]
    return (result["lm_loss"] + moe.get("load_balancing_loss_coef", 0) * sum(result["balance"])
            + moe.get("z_loss_coef", 0) * sum(result["z"]))


def gradient_elements(weights, name, rng):
    """Indices into the flattened parameter."""
    count = min(GRADIENT_ELEMENTS, weights[name].size)
    return np.sort(rng.choice(weights[name].size, count, replace=False))


def differentiate(weights, name, index, loss, step=5e-4):
    """d(loss)/d(element) by a five-point stencil, with an error of the order of step^4."""
    flat = weights[name].reshape(-1)
    original = flat[index]

    def loss_at(offset):
        flat[index] = original + offset * step
        value = loss()
        flat[index] = original
        return value

    return (8 * (loss_at(1) - loss_at(-1)) - (loss_at(2) - loss_at(-2))) / (12 * step)


# ---- Golden files --------------------------------------------------------------------------------


def compute_case(name, config):
    """All tensors of the golden file."""
    rng = np.random.Generator(np.random.PCG64(list(name.encode())))
    weights = draw_weights(config, rng)
    ids, targets = draw_batch(config, rng)
    result = forward(weights, ids, targets, config)
    tensors = dict(weights)
    tensors["input.token_ids"] = ids.astype(np.int32)
    tensors["input.targets"] = targets.astype(np.int32)
    tensors["output.hidden"] = result["hidden"]
    tensors["output.logits"] = result["logits"]
    tensors["output.lm_loss"] = np.array(result["lm_loss"])
    tensors["output.load_balancing_loss"] = np.array(np.mean(result["balance"] or [0.0]))
    tensors["output.z_loss"] = np.array(np.mean(result["z"] or [0.0]))
    dropped = sum(np.sum(kept < 0) for _, kept in result["routes"].values())
    tensors["output.dropped"] = np.array(float(dropped))
    for l, (expert, kept) in result["routes"].items():
        tensors[f"output.layers.{l}.experts"] = expert.astype(np.int32)
        tensors[f"output.layers.{l}.kept"] = kept.astype(np.int32)

    def loss():
        return total_loss(forward(weights, ids, targets, config, result["routes"]), config)

    for parameter in sorted(weights):
        if parameter.endswith(BIAS):
            continue
        index = gradient_elements(weights, parameter, rng)
        tensors["gradient.index." + parameter] = index.astype(np.int32)
        tensors["gradient.value." + parameter] = np.array(
            [differentiate(weights, parameter, i, loss) for i in index])
    return tensors


DTYPES = {"F64": np.dtype("<f8"), "I32": np.dtype("<i4")}


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, array in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        dtype = {known: text for text, known in DTYPES.items()}[array.dtype]
        end = len(data) + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), end]}
        data += np.ascontiguousarray(array).tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    content = path.read_bytes()
    begin = 8 + struct.unpack("<Q", content[:8])[0]
    tensors = {}
    for name, entry in json.loads(content[8:begin]).items():
        first, last = entry["data_offsets"]
        array = np.frombuffer(content[begin + first : begin + last], DTYPES[entry["dtype"]])
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def differences(computed, stored):
    """What differs by more than another machine's rounding explains."""
    if computed.keys() != stored.keys():
        yield f"tensors {sorted(computed.keys() ^ stored.keys())} are in one of them only"
        return
    for name, array in computed.items():
        tolerance = 0 if array.dtype == np.int32 else 1e-9 if "gradient" in name else 1e-12
        if array.shape != stored[name].shape:
            yield f"{name} has shape {array.shape}, the file has {stored[name].shape}"
            continue
        error, scale = np.abs(array - stored[name]).max(), np.abs(stored[name]).max()
        if not error <= tolerance * max(scale, 1):
            yield f"{name} differs by {error:.2e} (largest element {scale:.2e})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    failed = False
    for name, config in CASES.items():
        tensors = compute_case(name, config)
        text = json.dumps(config, indent=2) + "\n"
        config_path, data_path = GOLDEN / f"{name}.json", GOLDEN / f"{name}.safetensors"
        if not check:
            config_path.write_text(text)
            write_safetensors(data_path, tensors)
            print(f"{data_path.name}: {data_path.stat().st_size} bytes")
            continue
        found = list(differences(tensors, read_safetensors(data_path)))
        if config_path.read_text() != text:
            found.append(f"{config_path.name} is another configuration")
        print(f"{name}: {'; '.join(found) or 'equal'}")
        failed |= bool(found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
