"""Writes what the published implementations compute on small random networks, for tests/reference.rs to compare with.

make_reference.py [--tiny] FOLDER

For each network NAME.json (sizes as the trainer writes them, inputs) and NAME.safetensors (weights/* with the published
names, output/*). Waveforms are not stored: both sides compute them from a formula (`waveform` below). With --tiny the
networks are as small as they can be, so that the files can be committed.
"""
import importlib.util
import json
import math
import pathlib
import sys
import types

import torch
from safetensors.torch import save_file

TINY = "--tiny" in sys.argv
OUT = pathlib.Path([a for a in sys.argv[1:] if not a.startswith("--")][0])
OUT.mkdir(parents=True, exist_ok=True)
LENGTHS = [2483, 1745] if TINY else [128_000, 55_555, 16_080]


def waveform(length, seed):
    """A chirp-like sum with a seed; the same formula is in tests/reference.rs."""
    n = torch.arange(length, dtype=torch.float64)
    return (0.3 * torch.sin(n * 0.05 * (seed + 1)) + 0.2 * torch.sin(n * n * 1e-5 * (seed + 1)) + 0.02 * seed).float()


def shake(model, seed):
    """Weights large enough that every part of the network matters."""
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        if p.dim() >= 2 and "pos_const" not in name and "alibi_scale" not in name and "weight_g" not in name and "original0" not in name:
            fan = p[0].numel()
            torch.nn.init.normal_(p, 0, 1 / math.sqrt(fan) if "embed" not in name else 0.7)
        elif "norm" in name.lower() and name.endswith("weight") or "const" in name or "scale" in name or "original0" in name or "weight_g" in name:
            torch.nn.init.normal_(p, 1, 0.2)
        else:
            torch.nn.init.normal_(p, 0, 0.2)
    return model.eval()


def write(name, config, weights, outputs):
    tensors = {f"weights/{k}": v.detach().float().contiguous().clone() for k, v in weights.items() if v.dim() > 0 and v.is_floating_point()}
    tensors |= {f"output/{k}": v.detach().float().contiguous().clone() for k, v in outputs.items()}
    save_file(tensors, OUT / f"{name}.safetensors")
    (OUT / f"{name}.json").write_text(json.dumps(config, indent=1) + "\n")
    print(name, {k: tuple(v.shape) for k, v in outputs.items()})


def speech(name, config, model, forward):
    """Each clip alone, and all together, zero-padded and without a mask, as the paper's code runs them."""
    with torch.no_grad():
        clips = [waveform(n, seed) for seed, n in enumerate(LENGTHS)]
        outputs = {f"alone.{n}": forward(clip[None])[0] for n, clip in enumerate(clips)}
        outputs["together"] = forward(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True))
    weights = {k: v for k, v in model.state_dict().items() if "decoder" not in k}
    write(name, {"speech": config, "lengths": LENGTHS}, weights, outputs)
    return weights


def wavlm():
    from transformers import WavLMConfig, WavLMModel

    s = dict(channels=4, width=8, hidden=12, layers=2, heads=2, position_width=8, position_groups=2, buckets=12, max_distance=6) if TINY else \
        dict(channels=24, width=48, hidden=96, layers=4, heads=4, position_width=128, position_groups=16, buckets=320, max_distance=800)
    model = WavLMModel(WavLMConfig(
        hidden_size=s["width"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"], intermediate_size=s["hidden"],
        conv_dim=[s["channels"]] * 7, num_conv_pos_embeddings=s["position_width"], num_conv_pos_embedding_groups=s["position_groups"],
        num_buckets=s["buckets"], max_bucket_distance=s["max_distance"], feat_extract_norm="group", do_stable_layer_norm=False))
    shake(model, 1)
    config = {"backbone": {"kind": "wavlm", "sizes": s}}
    weights = speech("wavlm", config, model, lambda x: model(x).last_hidden_state)
    # The library normalises each clip before it is padded.
    from transformers import Wav2Vec2FeatureExtractor
    extract = Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=16000, padding_value=0.0, do_normalize=True, return_attention_mask=False)
    with torch.no_grad():
        clips = [torch.from_numpy(extract(waveform(n, seed).numpy(), sampling_rate=16000).input_values[0]) for seed, n in enumerate(LENGTHS)]
        outputs = {f"alone.{n}": model(clip[None]).last_hidden_state[0] for n, clip in enumerate(clips)}
    if not TINY:
        write("wavlm-normalised", {"speech": config | {"normalise": "clip"}, "lengths": LENGTHS}, weights, outputs)
    # Bucket numbers of the published functions at the published sizes, distances key minus query.
    from transformers.models.t5.modeling_t5 import T5Attention
    far = torch.arange(-1000, 1001)
    attention = model.encoder.layers[0].attention
    attention.num_buckets, attention.max_distance = 320, 800
    buckets = {"wavlm": attention._relative_positions_bucket(far), "t5": T5Attention._relative_position_bucket(far, True, 32, 128)}
    save_file({k: v.to(torch.int16) for k, v in buckets.items()}, OUT / "buckets.safetensors")
    return weights


def emotion2vec():
    # The package's own __init__ imports every model it has; only the files of this one are wanted.
    place = pathlib.Path(importlib.util.find_spec("funasr").submodule_search_locations[0])
    for name, path in {"funasr": place, "funasr.models": place / "models", "funasr.models.emotion2vec": place / "models/emotion2vec", "funasr.utils": place / "utils"}.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    sys.modules["funasr.utils.load_utils"] = types.ModuleType("load_utils")
    sys.modules["funasr.utils.load_utils"].load_audio_text_image_video = None
    from funasr.models.emotion2vec.model import Emotion2vec

    s = dict(channels=4, width=8, hidden=12, prenet_layers=1, layers=1, heads=2, position_layers=2, position_width=5, position_groups=2, extra_tokens=3) if TINY else \
        dict(channels=24, width=48, hidden=192, prenet_layers=2, layers=3, heads=12, position_layers=5, position_width=19, position_groups=16, extra_tokens=10)
    convolutions = f"[({s['channels']}, 10, 5)] + [({s['channels']}, 3, 2)] * 4 + [({s['channels']},2,2)] * 2"
    audio = dict(
        type="AUDIO", prenet_depth=s["prenet_layers"], prenet_layerdrop=0.05, prenet_dropout=0.1, start_drop_path_rate=0.0, end_drop_path_rate=0.0,
        num_extra_tokens=s["extra_tokens"], init_extra_token_zero=True, mask_noise_std=0.01, mask_prob=0.5, mask_prob_min=None, mask_prob_adjust=0.05,
        mask_length=5, inverse_mask=False, keep_masked_pct=0.0, encoder_zero_mask=True, mask_channel_prob=0.0, mask_channel_length=64, mask_dropout=0.0,
        add_masks=False, ema_local_encoder=False, local_grad_mult=1.0, use_alibi_encoder=True, alibi_scale=1.0, learned_alibi=False,
        alibi_max_pos=None, learned_alibi_scale=True, learned_alibi_scale_per_head=True, learned_alibi_scale_per_layer=False,
        num_alibi_heads=s["heads"], model_depth=s["layers"], decoder=None, extractor_mode="layer_norm", feature_encoder_spec=convolutions,
        conv_pos_width=s["position_width"] * s["position_layers"], conv_pos_groups=s["position_groups"], conv_pos_depth=s["position_layers"], conv_pos_pre_ln=False)
    model = Emotion2vec(vocab_size=-1, model_conf=dict(
        depth=s["layers"], embed_dim=s["width"], num_heads=s["heads"], mlp_ratio=s["hidden"] / s["width"], norm_eps=1e-5, norm_affine=True,
        encoder_dropout=0.1, attention_dropout=0.1, activation_dropout=0.0, post_mlp_drop=0.1, dropout_input=0.0, layerdrop=0.05,
        start_drop_path_rate=0.0, end_drop_path_rate=0.0, layer_norm_first=False, end_of_block_targets=False, average_top_k_layers=16,
        loss_beta=0, loss_scale=None, clone_batch=12, normalize=True, modalities=dict(audio=audio)))
    shake(model, 2)
    forward = lambda x: model.extract_features(x, padding_mask=None)["x"]
    return speech("emotion2vec", {"backbone": {"kind": "emotion2vec", "sizes": s}}, model, forward)


def texts():
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel, T5Config, T5EncoderModel

    v, w, h, layers, heads, p = (340, 8, 12, 2, 2, 24) if TINY else (200, 48, 96, 4, 4, 160)
    lengths = [7, 4] if TINY else [140, 31, 3]
    torch.manual_seed(3)

    def ids(pad, first, last):
        rows = torch.full((len(lengths), max(lengths)), pad)
        for row, n in zip(rows, lengths):
            row[:n] = torch.randint(5, v, (n,))
            row[n - 1] = last
            if first is not None:
                row[0] = first
        return rows

    bert = dict(vocab_size=v, hidden_size=w, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=h)
    ours = dict(vocabulary=v, width=w, hidden=h, layers=layers, heads=heads, positions=p)
    t5 = dict(vocab_size=v, d_model=w, d_kv=w // heads if TINY else 16, d_ff=h, num_layers=layers, num_heads=heads, use_cache=False)
    ours_t5 = dict(vocabulary=v, width=w, hidden=h, layers=layers, heads=heads, head_width=t5["d_kv"])
    cases = {
        "bert": (BertModel(BertConfig(**bert, max_position_embeddings=p, layer_norm_eps=1e-12), add_pooling_layer=False), ids(0, 2, 3),
                 {"kind": "bert", "sizes": ours | {"family": "bert", "epsilon": 1e-12}}, "first"),
        "roberta": (RobertaModel(RobertaConfig(**bert, max_position_embeddings=p + 2, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2),
                                 add_pooling_layer=False), ids(1, 0, 2), {"kind": "bert", "sizes": ours | {"family": "roberta", "epsilon": 1e-5}}, "first"),
        "t5": (T5EncoderModel(T5Config(**t5, feed_forward_proj="relu")), ids(0, None, 1), {"kind": "t5", "sizes": ours_t5 | {"feed_forward": "relu"}}, "mean-with-padding"),
        "flan-t5": (T5EncoderModel(T5Config(**t5, feed_forward_proj="gated-gelu")), ids(0, None, 1), {"kind": "t5", "sizes": ours_t5 | {"feed_forward": "gated"}}, "mean-with-padding"),
    }
    for n, (name, (model, rows, backbone, pooling)) in enumerate(cases.items()):
        shake(model, 10 + n)
        mask = torch.zeros_like(rows)
        for row, length in zip(mask, lengths):
            row[:length] = 1
        with torch.no_grad():
            states = model(input_ids=rows, attention_mask=mask).last_hidden_state
        # As a published checkpoint names them: with the prefix of the whole model.
        prefix = {"bert": "bert.", "roberta": "roberta."}.get(name, "")
        weights = {prefix + k: t for k, t in model.state_dict().items() if "embed_tokens" not in k}
        config = {"text": {"backbone": backbone, "pooling": pooling}, "ids": rows.tolist(), "mask": mask.tolist()}
        write(name, config, weights, {"states": states})


def checkpoints(weights):
    """The same weights in every form that torch.save writes, with things beside them that must not be needed."""
    import argparse

    state = {k: v.clone() for k, v in list(weights.items())[:6 if TINY else None]}
    half = {k: v.half() for k, v in state.items()}
    turned = {k: v.transpose(0, -1).contiguous().transpose(0, -1) for k, v in state.items()}
    beside = {"args": argparse.Namespace(lr=1e-3), "optimizer": {"state": {0: {"exp_avg": torch.zeros(3, dtype=torch.float64)}}}, "epoch": 3}
    torch.save(turned, OUT / "plain.pt")
    torch.save({"model": state} | beside, OUT / "nested.pt")
    torch.save({"state_dict": half} | beside, OUT / "older.bin", _use_new_zipfile_serialization=False)
    save_file({k: v.contiguous() for k, v in state.items()}, OUT / "checkpoints.safetensors")


def tokenizers():
    import io

    import sentencepiece
    from transformers import BertTokenizerFast, RobertaTokenizerFast, T5Tokenizer
    from tokenizers import ByteLevelBPETokenizer

    texts = ["The speaker sounds angry.", "spoken in a calm, gentle tone", "  Very  EXCITED voice!! ", "it's caf\u00e9-like \u2014 na\u00efve", "\ufb01ne \u2460 2nd try", "whisper"]
    corpus = texts + [f"speech that is {a} and {b}" for a in ["sad", "happy", "bored", "calm"] for b in ["slow", "fast", "whispered", "angry"]]
    cases = []
    words = sorted({w for t in corpus for w in "".join(c if c.isalnum() else " " for c in t.lower()).split()})
    pieces = sorted({c for t in corpus for c in t.lower()} - {" "})
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + words[::2] + pieces + ["##" + c for c in pieces]
    (OUT / "vocab.txt").write_text("\n".join(vocab) + "\n")
    bert = BertTokenizerFast(vocab_file=str(OUT / "vocab.txt"), do_lower_case=True)
    cases.append({"file": "vocab.txt", "ids": [bert(t).input_ids for t in texts]})

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(corpus, vocab_size=330, min_frequency=2, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    bpe.save_model(str(OUT))
    roberta = RobertaTokenizerFast(vocab_file=str(OUT / "vocab.json"), merges_file=str(OUT / "merges.txt"))
    cases.append({"file": "vocab.json", "ids": [roberta(t).input_ids for t in texts]})

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus * 4), model_writer=model, vocab_size=90, hard_vocab_limit=False, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        normalization_rule_name="identity" if TINY else "nmt_nfkc", minloglevel=2)
    (OUT / "spiece.model").write_bytes(model.getvalue())
    # The one that runs SentencePiece itself: this version's conversion to a fast one leaves out the first space.
    t5 = T5Tokenizer(vocab_file=str(OUT / "spiece.model"), extra_ids=100, legacy=True)
    cases.append({"file": "spiece.model", "ids": [t5(t).input_ids for t in texts]})
    (OUT / "tokenizers.json").write_text(json.dumps({"texts": texts, "cases": cases}) + "\n")
    print("tokenizers", [c["file"] for c in cases])


checkpoints(wavlm())
emotion2vec()
texts()
tokenizers()
