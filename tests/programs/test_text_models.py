"""Models that continue a text: what goes over the wire, every fault of a server, and a transformers model."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import io
import json
import subprocess
import sys
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest
from fault_server_async import certified

from svip_search._errors import PolicyError
from svip_search.programs._text_models import OpenAITextModel, TextModel, TransformersTextModel

_spec = importlib.util.spec_from_file_location("fault_server", Path(__file__).with_name("fault_server.py"))
faults = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(faults)
choices, drip, fault_server, raw, reply, reset = (
    faults.choices, faults.drip, faults.fault_server, faults.raw, faults.reply, faults.reset,
)  # fmt: skip

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def model(server, **options):
    return OpenAITextModel(server.url, "some-model", **({"timeout": 20, "retries": 1} | options))


# -- what is asked --------------------------------------------------------------------------------


def test_a_text_goes_to_completions_and_messages_to_chat():
    with fault_server(choices("3", "4")) as server:
        asked = model(server)
        assert asked.complete("one two", 2, temperature=0.5, max_tokens=7, stop=["\n"], seed=11) == ["3", "4"]
        assert asked.complete(CHAT, 2) == ["3", "4"]
        text, chat = server.requests
    assert text["path"] == "/v1/completions" and chat["path"] == "/v1/chat/completions"
    assert text["body"] == {
        "model": "some-model", "prompt": "one two", "n": 2,
        "temperature": 0.5, "max_tokens": 7, "stop": ["\n"], "seed": 11,
    }  # fmt: skip
    assert chat["body"]["messages"] == CHAT and "stop" not in chat["body"]
    assert "Authorization" not in text["headers"]


def test_pictures_go_as_png_in_the_last_message():
    image = importlib.import_module("PIL.Image")
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    with fault_server(choices("x")) as server:
        model(server).complete(CHAT, 1, images=[picture])
        *_, last = server.requests[0]["body"]["messages"]
    shown, text = last["content"]
    head, _, data = shown["image_url"]["url"].partition(",")
    assert (shown["type"], text) == ("image_url", {"type": "text", "text": "How many?"})
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(image.open(io.BytesIO(base64.b64decode(data)))), picture)
    assert CHAT[-1]["content"] == "How many?"


def test_the_key_is_sent_and_never_repeated():
    with fault_server(reply(b"the key sk-secret is wrong", "401 Unauthorized")) as server:
        with pytest.raises(PolicyError, match=r"status 401 \(the key \*\*\* is wrong\)") as caught:
            model(server, api_key="sk-secret").complete("a", 1)
        assert server.requests[0]["headers"]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in str(caught.value)


def test_nothing_is_asked_for_no_completions():
    with fault_server(reset) as server:
        assert model(server).complete("a", 0) == []
        assert not server.requests


# -- answers that are normal life -----------------------------------------------------------------


def test_fewer_choices_are_asked_for_again_with_another_seed():
    with fault_server(choices("a"), choices("b"), choices("c", "d", "e")) as server:
        assert model(server).complete(CHAT, 4, seed=5) == ["a", "b", "c", "d"]
        assert [(r["body"]["n"], r["body"]["seed"]) for r in server.requests] == [(4, 5), (3, 6), (2, 7)]


def test_more_choices_are_cut_and_null_content_is_empty():
    with fault_server(choices(None, "b", "c")) as server:
        assert model(server).complete(CHAT, 2) == ["", "b"]


def test_a_chunked_answer_is_read():
    body = b'{"choices":[{"text":"ok"}]}'
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:5], body[5:])) + b"0\r\n\r\n"
    with fault_server(raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + pieces)) as server:
        assert model(server).complete("a", 1) == ["ok"]


# -- faults that pass -----------------------------------------------------------------------------

PASSING = {
    "500": reply(b"oops", "500 Internal Server Error"),
    "502": reply(b"<html>bad gateway</html>", "502 Bad Gateway", "text/html"),
    "503": reply(b"", "503 Service Unavailable"),
    "429": reply({"error": "slow down"}, "429 Too Many Requests", Retry_After="0"),
    "html": reply(b"<html>log in</html>", kind="text/html; charset=utf-8"),
    "no object": reply([1]),
    "empty object": reply({}),
    "null choices": reply({"choices": None}),
    "no choices": reply({"choices": []}),
    "choice of no kind": reply({"choices": [None]}),
    "choice without text": reply({"choices": [{"finish_reason": "stop"}]}),
    "number for a text": reply({"choices": [{"text": 5}]}),
    "cut json": raw(HEAD + b'Content-Length: 400\r\n\r\n{"choices": [{"te'),
    "cut head": raw(b"HTTP/1.1 200 OK\r\nContent-"),
    "cut chunk": raw(HEAD + b'Transfer-Encoding: chunked\r\n\r\nff\r\n{"choi'),
    "deep json": reply(b"[" * 200_000),
    "no utf-8": reply(b'{"choices": [{"text": "\xff"}]}'),
    "long number": reply(b'{"choices": ' + b"9" * 10_000 + b"}"),
    "not http": raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "header flood": raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500),
    "nothing": raw(b""),
    "reset": reset,
}


@pytest.mark.parametrize("name", PASSING)
def test_a_passing_fault_is_tried_again(name):
    with fault_server(PASSING[name], choices("fine")) as server:
        assert model(server).complete(CHAT, 1) == ["fine"]
        assert len(server.requests) == 2


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_stays_is_a_policy_error_of_one_line(name):
    with fault_server(PASSING[name]) as server, pytest.raises(PolicyError) as caught:
        model(server).complete(CHAT, 1)
    message = str(caught.value)
    assert message.startswith(f"The model server at 127.0.0.1:{server.server_address[1]} ")
    assert "after 2 tries" in message and message.isprintable() and len(message) < 500


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_kept_to(date):
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=2.9), usegmt=True) if date else "1"
    with fault_server(reply(b"", "429 Too Many Requests", Retry_After=value), choices("fine")) as server:
        assert model(server).complete("a", 1) == ["fine"]
        first, second = (r["time"] for r in server.requests)
    assert second - first >= 1


@pytest.mark.parametrize("value", ["30", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_beyond_the_deadline_is_not_begun(value):
    start = time.monotonic()
    with fault_server(reply(b"", "503 Busy", Retry_After=value)) as server, pytest.raises(PolicyError, match="no time"):
        model(server, timeout=10).complete("a", 1)
    assert time.monotonic() - start < 8


@pytest.mark.parametrize("value", ["soon", "-5", "1e3", "nan", ""])
def test_an_unusable_retry_after_is_ignored(value):
    with fault_server(reply(b"", "503 Busy", Retry_After=value), choices("fine")) as server:
        assert model(server).complete("a", 1) == ["fine"]


# -- faults that stay -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found", "422 No"])
def test_a_refusal_is_not_tried_again(status):
    with fault_server(reply({"error": {"message": "no such\nmodel"}}, status)) as server:
        with pytest.raises(PolicyError, match=rf"status {status[:3]} \(.*no such"):
            model(server).complete("a", 1)
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_is_not_followed(status):
    with fault_server(choices("caught")) as other:
        with fault_server(reply(b"", status, Location=other.url)) as server:
            with pytest.raises(PolicyError, match="redirect"):
                model(server).complete("a", 1)
            assert len(server.requests) == 1
        assert not other.requests


@pytest.mark.parametrize("chunked", [False, True])
def test_a_flood_is_cut_off(chunked):
    data = b'"' + b"x" * 20_000_000
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data) if chunked else data
    head = HEAD + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
    with fault_server(raw(head + body)) as server:
        tracemalloc.start()
        with pytest.raises(PolicyError, match="more than 1000000 bytes"):
            model(server, max_bytes=1_000_000).complete("a", 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(server.requests) == 1
    assert peak < 8_000_000


def test_a_compressed_answer_is_read_within_the_limit():
    body = json.dumps({"choices": [{"text": "ok" + " " * 5000}]}).encode()
    with fault_server(reply(gzip.compress(body), Content_Encoding="gzip")) as server:
        assert model(server).complete("a", 1)[0].strip() == "ok"
        with pytest.raises(PolicyError, match="more than 4000 bytes"):
            model(server, max_bytes=4000).complete("a", 1)


def test_equal_servers_stand_in_for_each_other():
    with fault_server(reply(b"", "503 Busy", Retry_After="60")) as busy, fault_server(choices("fine")) as free:
        asked = OpenAITextModel([busy.url, free.url], "m", retries=1)
        assert [asked.complete("a", 1) for _ in range(4)] == [["fine"]] * 4
        asked.close()
    assert len(busy.requests) <= 1


DRIPS = {
    "body": HEAD + b"Content-Length: 9999\r\n\r\n" + b" " * 9999,
    "head": HEAD + b"A: " + b"b" * 9999,
    "chunk sizes": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 9999,
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 999,
    "spaces and sense": HEAD + b"Content-Length: 9999\r\n\r\n" + b'{"choices": [' + b" " * 9999,
}


@pytest.mark.parametrize("name", DRIPS)
def test_a_slow_drip_ends_at_the_deadline(name):
    start = time.monotonic()
    with fault_server(drip(DRIPS[name], 0.01)) as server, pytest.raises(PolicyError, match=r"within 0\.5 s"):
        model(server, timeout=0.5).complete("a", 1)
    assert time.monotonic() - start < 10  # the drip lasts longer than a minute


def test_a_server_that_reads_and_never_answers_ends_at_the_deadline():
    with (
        fault_server(lambda sock, request: time.sleep(5)) as server,
        pytest.raises(PolicyError, match=r"within 0\.3 s"),
    ):
        model(server, timeout=0.3).complete("a", 1)


def test_all_requests_of_a_call_share_one_deadline():
    def slow(sock, request):
        time.sleep(0.2)
        choices("a")(sock, request)

    start = time.monotonic()
    with fault_server(slow) as server, pytest.raises(PolicyError, match="within"):
        model(server, timeout=1).complete("a", 100)
    assert time.monotonic() - start < 8


@pytest.fixture
def tls(tmp_path):
    return certified(tmp_path)


def test_https_is_trusted_by_certificate_and_keeps_the_deadline(tls, monkeypatch):
    context, certificate = tls
    with fault_server(choices("fine"), drip(DRIPS["body"], 0.01)) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        with pytest.raises(PolicyError, match="SSLCertVerificationError"):
            OpenAITextModel(url, "m", retries=0).complete("a", 1)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert OpenAITextModel(url, "m", retries=0).complete("a", 1) == ["fine"]
        start = time.monotonic()
        with pytest.raises(PolicyError, match="within 1 s"):
            OpenAITextModel(url, "m", timeout=1).complete("a", 1)
        assert time.monotonic() - start < 10


def test_no_server_at_all():
    with fault_server(reset) as server:
        url = server.url
    with pytest.raises(PolicyError, match=r"cannot be talked to \(ConnectionRefusedError.*after 1 try\."):
        OpenAITextModel(url, "m", retries=0).complete("a", 1)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:80", "ftp://a", "http://", "http://a:99999", "http://a b", "http://a\n", "file:///etc/passwd"],
)
def test_only_addresses_of_servers_are_accepted(url):
    with pytest.raises(ValueError, match="`base_url` must be"):
        OpenAITextModel(url, "m")


@pytest.mark.parametrize("url", ["http://me:pw@a/v1", "http://a/v1?k=pw", "http://a/#pw"])
def test_an_address_with_a_secret_is_refused_without_repeating_it(url):
    with pytest.raises(ValueError, match="`base_url`") as caught:
        OpenAITextModel(url, "m")
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"timeout": 0}, "timeout"), ({"timeout": float("nan")}, "timeout"), ({"retries": -1}, "retries"),
     ({"max_bytes": 0}, "max_bytes"), ({"api_key": "a\r\nX: y"}, "api_key"), ({"api_key": ""}, "api_key")],
)  # fmt: skip
def test_arguments_out_of_range(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        OpenAITextModel("http://a", "m", **options)


BAD_CALLS = [
    (("", 1), {}, "prompt"), (([], 1), {}, "prompt"), (("a", -1), {}, "n"), (("a", 1), {"max_tokens": 0}, "max_tokens"),
    (("a", 1), {"temperature": -1}, "temperature"), (("a", 1), {"temperature": float("nan")}, "temperature"),
    (("a", 1), {"stop": "x"}, "stop"), (("a", 1), {"stop": [""]}, "stop"), (("a", 1), {"images": [1]}, "images"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "options", "name"), BAD_CALLS)
def test_calls_out_of_range(args, options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        OpenAITextModel("http://a", "m").complete(*args, **options)


def test_importing_needs_the_standard_library_alone():
    code = "import sys, svip_search.programs.llm; print({'torch', 'transformers', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# -- transformers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    """A causal model with random weights and a tokenizer of letters."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = ["<end>", *map(chr, range(32, 127)), "\n"]
    core = Tokenizer(models.WordLevel({c: i for i, c in enumerate(letters)}, unk_token="<end>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", unk_token="<end>")
    config = transformers.LlamaConfig(
        vocab_size=len(letters), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, eos_token_id=0, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval(), tokenizer


def test_transformers_samples_by_seed_alone(tiny):
    import torch

    text_model = TransformersTextModel(*tiny)
    assert isinstance(text_model, TextModel)
    state = torch.get_rng_state()
    first = text_model.complete("how many", 3, max_tokens=12, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert text_model.complete("how many", 3, max_tokens=12, seed=1) == first
    assert text_model.complete("how many", 3, max_tokens=12, seed=2) != first
    assert len(set(first)) == 3 and all(len(t) <= 12 for t in first)


def test_transformers_greedy_gives_n_equal_texts(tiny):
    first, *others = TransformersTextModel(*tiny).complete("abc", 3, temperature=0, max_tokens=8)
    assert others == [first, first]


def test_transformers_stops_before_a_stop_text(tiny):
    text_model = TransformersTextModel(*tiny)
    whole = text_model.complete("abc", 1, temperature=0, max_tokens=20)[0]
    assert (
        text_model.complete("abc", 1, temperature=0, max_tokens=20, stop=[whole[5:7]])[0]
        == whole[: whole.find(whole[5:7])]
    )


def test_transformers_conversations_use_the_template_where_there_is_one(tiny):
    text_model = TransformersTextModel(*tiny)
    plain = text_model._template(CHAT, 0)
    assert plain == "system: Be brief.\nuser: How many?\nassistant:"
    tiny[1].chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"
    try:
        assert text_model._template(CHAT, 0) == "[system]Be brief.[user]How many?[assistant]"
        assert len(text_model.complete(CHAT, 2, max_tokens=5)) == 2
    finally:
        tiny[1].chat_template = None


def test_transformers_faults_are_policy_errors(tiny):
    text_model = TransformersTextModel(*tiny)
    with pytest.raises(PolicyError, match="room for 128 tokens; the prompt has 300"):
        text_model.complete("a" * 300, 1)
    with pytest.raises(ValueError, match="`images` need a processor that takes pictures"):
        text_model.complete(CHAT, 1, max_tokens=4, images=[np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(PolicyError, match="LlamaForCausalLM raised RuntimeError"):
        text_model.complete("a", 1, temperature=1e-40, max_tokens=4)  # beyond single precision


def test_transformers_looks_at_pictures():
    """The embedded image-text-to-text model, with random weights."""
    pytest.importorskip("transformers")
    from svip_search.models.embedded import new_model, new_processor

    processor = new_processor()
    text_model = TransformersTextModel(new_model("puzzle-nano", processor), processor)
    seen = []
    text_model.model.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(inputs.get("pixel_values")), with_kwargs=True
    )
    prompt = [{"role": "user", "content": "what is missing ?"}]
    black, white = (np.full((128, 128, 3), v, np.uint8) for v in (0, 255))
    for picture in (black, white):
        assert len(text_model.complete(prompt, 2, max_tokens=3, images=[picture])) == 2
    first, second = (pixels.mean() for pixels in seen if pixels is not None)
    assert first < second
