"""The store in a bucket, against real HTTP servers on loopback: what is stored, what faults do, what errors say."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cloud_credentials
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3_server
from cloud_credentials import SECRET
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError
from s3_server import S3Server

from psych_ray.errors import ResultsError, UnreachableError
from psych_ray.results import object_store
from psych_ray.results.object_store import Limits, ObjectStore

LIMITS = Limits(connect_s=1, request_s=1, retry_s=5, credentials_s=0.3)
SERVICE_ACCOUNT = ("client_email", "private_key", "private_key_id")


@pytest.fixture(scope="module")
def gcs():
    with s3_server.s3_server(s3_server.GcsHandler) as server:
        yield server


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No credentials but those that a test gives, and none of the machine."""
    cloud_credentials.forget_credentials(monkeypatch, tmp_path)


@pytest.fixture
def server(s3, monkeypatch) -> S3Server:
    s3.clear()
    s3.create_bucket("bucket")
    cloud_credentials.use_keys(monkeypatch, s3)
    return s3


@pytest.fixture
def store(server) -> ObjectStore:
    return ObjectStore("s3://bucket/root", limits=LIMITS)


@pytest.fixture
def google_store(gcs, monkeypatch, tmp_path) -> ObjectStore:
    gcs.clear()
    gcs.create_bucket("bucket")
    account = tmp_path / "account.json"
    account.write_text(
        json.dumps({"gcs_base_url": gcs.url, "disable_oauth": True} | dict.fromkeys(SERVICE_ACCOUNT, ""))
    )
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(account))
    monkeypatch.setenv("GOOGLE_BASE_URL", gcs.url)
    return ObjectStore("gs://bucket/root", limits=LIMITS)


@pytest.mark.parametrize("kind", ["store", "google_store"])
def test_what_is_written_is_read_under_the_same_name(kind, request):
    store = request.getfixturevalue(kind)
    assert store.files("responses") == []
    before = time.time()
    store.write("responses/b=1%2F é/y", b"second")
    store.write("responses/x", b"first")
    store.write("plan.json", b"{}")
    assert [(file.name, file.size) for file in store.files("responses")] == [
        ("responses/b=1%2F é/y", 6),
        ("responses/x", 5),
    ]
    assert all(abs(file.modified - before) < 5 for file in store.files("responses"))
    assert len(store.files("")) == 3
    store.write("responses/x", b"replaced")
    assert store.read("responses/x") == b"replaced"
    with store.open("responses/x") as file:
        file.seek(-3, 2)
        assert file.read() == b"ced"
    assert store.exists("plan.json")
    assert not store.exists("responses")
    assert not store.exists("absent")
    store.remove(["absent", "plan.json", "also/absent", "responses/x"])
    assert [file.name for file in store.files("")] == ["responses/b=1%2F é/y"]
    store.write("empty", b"")
    assert store.read("empty") == b""
    with store.open("empty") as file:
        assert file.read() == b""
    assert store.local_path("empty") is None
    store.remove_unfinished()
    with pytest.raises(ResultsError, match=rf"{store.location}/absent: cannot be read: there is no such object"):
        store.read("absent")
    with pytest.raises(ResultsError, match=rf"{store.location}/absent: cannot be read: there is no such object"):
        store.open("absent")


@pytest.mark.parametrize("kind", ["store", "google_store"])
def test_one_of_many_creates_a_file(kind, request):
    store = request.getfixturevalue(kind)
    with ThreadPoolExecutor(8) as pool:
        contents = [str(k).encode() for k in range(8)]
        created = list(pool.map(lambda content: store.create("lease", content), contents))
    assert sorted(created) == [False] * 7 + [True]
    assert store.read("lease") == contents[created.index(True)]


@pytest.mark.parametrize("fault", [s3_server.lose_answer, s3_server.carry_out_and_fail, s3_server.reset])
@pytest.mark.parametrize("kind", ["store", "google_store"])
def test_a_creation_whose_answer_was_lost_is_recognised(kind, fault, request):
    store = request.getfixturevalue(kind)
    server = request.getfixturevalue("s3" if kind == "store" else "gcs")
    server.fail(fault, "PUT", "lease")
    assert store.create("lease", b"mine")
    server.fail(fault, "PUT", "lease")
    assert not store.create("lease", b"mine"), "equal bytes of another are not this call's own"


def test_a_conflict_without_a_file_is_no_answer(store, server):
    server.fail(s3_server.status(409, "ConditionalRequestConflict"), "PUT", "lease")
    assert store.create("lease", b"mine")


def test_a_store_without_conditional_writes_is_refused(store, server):
    server.fail(s3_server.ignore_conditions, "PUT", times=10)
    with pytest.raises(ResultsError, match="s3://bucket/root/lease: this store ignores If-None-Match"):
        store.create("lease", b"mine")


def test_the_store_opens_again_from_its_location_alone_and_from_a_pickle(store):
    store.write("x", b"1")
    assert ObjectStore(store.location).read("x") == b"1"
    again = pickle.loads(pickle.dumps(store))
    assert again.read("x") == b"1"
    assert SECRET.encode() not in pickle.dumps(store)
    assert SECRET not in repr(store) + repr(store.delta_options)


OPERATIONS = {
    "write": lambda store: store.write("x", b"new"),
    "create": lambda store: store.create("new", b"new"),
    "read": lambda store: store.read("x"),
    "open": lambda store: store.open("x").read(),
    "exists": lambda store: store.exists("x"),
    "files": lambda store: [file.name for file in store.files("")],
    "remove": lambda store: store.remove(["x"]),
}
TRANSIENT = {
    "slow down": s3_server.status(503, "SlowDown"),
    "too many": s3_server.status(429),
    "internal": s3_server.status(500, "InternalError"),
    "reset": s3_server.reset,
    "request cut": s3_server.cut_request,
}


@pytest.mark.parametrize("fault", TRANSIENT)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_fails_for_a_while_is_repeated(operation, fault, store, server):
    store.write("x", b"old")
    store.create("other", b"")
    server.requests.clear()
    expected = {"create": True, "read": b"old", "open": b"old", "exists": True, "files": ["other", "x"]}
    server.fail(TRANSIENT[fault])
    assert OPERATIONS[operation](store) == expected.get(operation)
    assert len(server.requests) == (3 if operation == "open" else 2)


@pytest.mark.parametrize("operation", ["read", "open", "files"])
def test_an_answer_that_is_cut_is_fetched_again(operation, store, server):
    store.write("x", b"old" * 100)
    server.fail(s3_server.cut_answer, "GET", times=2)
    assert OPERATIONS[operation](store) == (["x"] if operation == "files" else b"old" * 100)


@pytest.mark.parametrize("operation", ["write", "create"])
def test_a_bit_that_flips_in_transit_is_not_stored(operation, store, server):
    server.fail(s3_server.flip_a_bit, "PUT", times=2)
    OPERATIONS[operation](store)
    assert store.read("x" if operation == "write" else "new") == b"new"
    assert server.count("PUT") >= 3


@pytest.mark.parametrize("operation", ["write", "create", "read", "files"])
def test_a_server_that_stands_still_ends_in_unreachable(operation, server):
    store = ObjectStore("s3://bucket/root", limits=Limits(connect_s=0.5, request_s=0.3, retry_s=0.5))
    server.fail(server.stall, times=100)
    started = time.monotonic()
    with pytest.raises(UnreachableError, match=rf"s3://bucket/root\S*: cannot be \w+: {server.url} does not answer"):
        OPERATIONS[operation](store)
    assert 0.5 < time.monotonic() - started < 2.5


def test_limited_requests_end_in_unreachable(server):
    store = ObjectStore("s3://bucket/root", limits=Limits(retry_s=0.4))
    server.fail(s3_server.status(503, "SlowDown"), times=100)
    with pytest.raises(UnreachableError, match=r"root/x: cannot be read: the store limits requests \(503 SlowDown\)"):
        store.read("x")
    assert server.count("GET") > 2


def test_a_request_that_stands_still_is_sent_again(store, server):
    store.write("x", b"old")
    server.fail(server.stall, "GET")
    assert store.read("x") == b"old"


def test_nothing_is_listening(server, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        store = ObjectStore("s3://bucket/root", limits=Limits(retry_s=0.2))
        with pytest.raises(UnreachableError, match=r"http://127.0.0.1:\d+ does not answer"):
            store.write("x", b"")


def test_an_upload_that_is_cut_leaves_what_was_there(server):
    store = ObjectStore("s3://bucket/root", limits=Limits(retry_s=0.3))
    store.write("x", b"old")
    server.fail(s3_server.cut_request, "PUT", times=100)
    with pytest.raises(UnreachableError):
        store.write("x", bytes(3 << 20))
    with pytest.raises(UnreachableError):
        store.write("new", bytes(3 << 20))
    assert store.read("x") == b"old"
    assert [file.name for file in store.files("")] == ["x"]


def test_long_contents_take_several_requests_and_appear_whole(server, monkeypatch):
    monkeypatch.setattr(object_store, "_ONE_REQUEST_BYTES", 6 << 20)
    monkeypatch.setattr(object_store, "_PART_BYTES", 5 << 20)
    store = ObjectStore("s3://bucket/root", limits=Limits(retry_s=0.3))
    content = os.urandom(11 << 20)
    store.write("long", content)
    assert server.count("PUT", "partNumber") == 3
    server.requests.clear()
    assert store.read("long") == content
    assert server.count("GET") == 3
    server.fail(s3_server.cut_request, "PUT", "partNumber=3", times=100)
    with pytest.raises(UnreachableError):
        store.write("long", bytes(11 << 20))
    with pytest.raises(UnreachableError):
        store.write("other", bytes(11 << 20))
    assert store.read("long") == content
    assert not store.exists("other")


def test_a_listing_goes_on_after_what_it_has(store, server, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    monkeypatch.setattr(object_store, "_LISTED_AT_ONCE", 10)
    for k in range(35):
        store.write(f"responses/{k:02}", bytes(k))
    server.requests.clear()
    server.fail(s3_server.reset, "GET", "continuation-token", times=3)
    assert [file.size for file in store.files("responses")] == list(range(35))
    assert server.count("GET", "start-after") >= 1
    assert server.count("GET") < 12


def test_the_footer_of_a_part_is_read_without_its_rows(store, server):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"nll": pa.array(range(1_000_000))}), sink, compression="none")
    store.write("part.parquet", sink.getvalue().to_pybytes())
    size = store.files("")[0].size
    assert size > 2_000_000
    server.requests.clear()
    server.sent_bytes = 0
    with store.open("part.parquet") as file:
        assert pq.read_metadata(file).num_rows == 1_000_000
    assert server.sent_bytes < size / 5
    with store.open("part.parquet") as file:
        assert pq.read_table(file)["nll"][999_999].as_py() == 999_999


def test_a_file_that_is_replaced_while_it_is_read_is_told(store):
    store.write("x", bytes(1 << 20))
    with store.open("x") as file:
        file.read(10)
        store.write("x", bytes([1]) * (1 << 20))
        with pytest.raises(ResultsError, match=r"root/x: cannot be read: it was replaced meanwhile"):
            file.read()


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        (403, "AccessDenied", r"access denied \(403 AccessDenied\): the credentials lack a permission"),
        (403, "InvalidAccessKeyId", "the access key is not known: correct AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "the secret key is not that of the access key: correct AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", "the credentials have expired: renew them"),
        (400, "InvalidToken", "the session token is not valid"),
        (403, "RequestTimeTooSkewed", "this machine's clock is wrong"),
        (301, "PermanentRedirect", "the bucket is in another region: set AWS_REGION$"),
        (400, "AuthorizationHeaderMalformed", "the bucket is in another region: set AWS_REGION=eu-north-1$"),
        (401, "", "the credentials are not valid"),
        (400, "InvalidRequest", r"the store refuses it \(400 InvalidRequest\)"),
    ],
)
@pytest.mark.parametrize("operation", ["write", "files"])
def test_what_will_not_change_is_told_at_once_in_one_line(operation, code, name, said, store, server):
    told = f"the region 'us-east-1' is wrong; expecting 'eu-north-1' {SECRET}"
    server.fail(s3_server.status(code, name, told if name.startswith("Auth") else SECRET), times=100)
    with pytest.raises(ResultsError, match=rf"^s3://bucket/root\S*: cannot be \w+: {said}") as raised:
        OPERATIONS[operation](store)
    assert len(server.requests) == 1
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["store", "google_store"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bucket_that_is_not_there_is_told(operation, kind, request):
    scheme = request.getfixturevalue(kind).location.partition(":")[0]
    store = ObjectStore(f"{scheme}://absent/root", limits=LIMITS)
    if operation == "remove" and scheme == "gs":
        store.remove(["x"])  # told by whatever writes or reads first
        return
    with pytest.raises(ResultsError, match=r"there is no bucket absent: create it, or correct results\.root"):
        OPERATIONS[operation](store)


def test_ctrl_c_ends_a_request_that_is_under_way(server):
    store = ObjectStore("s3://bucket/root", limits=Limits(request_s=20, retry_s=20))
    server.fail(server.stall, times=100)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            store.write("x", b"")
    finally:
        signal.signal(signal.SIGINT, before)
        timer.join()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("root", "said"),
    [
        (f"s3://KEY:{SECRET}@bucket/root", "no bucket has such a name"),
        (f"https://KEY:{SECRET}@host/root", "use a local path, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
        ("s3://", "no bucket has such a name"),
        ("s3://bucket/a b", "'a b' cannot be a folder in a bucket"),
        ("s3://bucket/a/../b", "'..' cannot be a folder in a bucket"),
        ("gs://bucket/a%20b", "'a%20b' cannot be a folder in a bucket"),
        ("gs://bucket/a//b", "'' cannot be a folder in a bucket"),
    ],
)
def test_roots_that_name_no_place_are_refused_without_repeating_keys(root, said):
    with pytest.raises(ResultsError, match=re.escape(said)) as raised:
        ObjectStore(root)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("metadata", ["refuses", "stands still"])
def test_missing_credentials_are_told_soon(scheme, metadata, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if metadata == "stands still":
            host = f"127.0.0.1:{silent.getsockname()[1]}"
            monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://{host}")
            monkeypatch.setenv("GCE_METADATA_HOST", host)
        started = time.monotonic()
        with pytest.raises(ResultsError, match=rf"^{scheme}://bucket/root: no (AWS|Google) credentials: set \w+"):
            ObjectStore(f"{scheme}://bucket/root", limits=LIMITS)
    assert time.monotonic() - started < 2


def test_a_missing_region_is_told(server, monkeypatch):
    monkeypatch.delenv("AWS_REGION")
    assert ObjectStore("s3://bucket/root").files("") == [], "a server of one's own has no regions"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with pytest.raises(ResultsError, match="s3://bucket/root: no region: set AWS_REGION to that of the bucket"):
        ObjectStore("s3://bucket/root")


def test_a_certificate_that_is_not_trusted_is_told_at_once(monkeypatch, tmp_path):
    with s3_server.s3_server() as server:
        server.socket = cloud_credentials.self_signed(tmp_path).wrap_socket(server.socket, server_side=True)
        cloud_credentials.use_keys(monkeypatch, server)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("http:", "https:"))
        store = ObjectStore("s3://bucket/root", limits=LIMITS)
        with pytest.raises(ResultsError, match="the server's certificate is not trusted: set SSL_CERT_FILE"):
            store.read("x")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        server.create_bucket("bucket")
        assert ObjectStore("s3://bucket/root", limits=LIMITS).files("") == []


def test_a_service_account_that_cannot_be_read_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "absent.json"))
    with pytest.raises(ResultsError, match=r"gs://bucket: the credentials cannot be used: .*absent\.json"):
        ObjectStore("gs://bucket")


@pytest.fixture
def profile(server, monkeypatch, tmp_path):
    cloud_credentials.use_profile(monkeypatch, tmp_path)


def test_a_profile_gives_credentials_and_region(profile, server):
    store = ObjectStore("s3://bucket/root", limits=LIMITS)
    store.write("x", b"1")
    assert server.signed_by == {"LABKEY eu-central-1"}
    assert store.delta_options["aws_region"] == "eu-central-1"
    assert SECRET not in repr(store.delta_options)


def test_the_role_of_a_machine_gives_credentials(server, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with cloud_credentials.machine_role() as address:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", address)
        store = ObjectStore("s3://bucket/root", limits=LIMITS)
        store.write("x", b"1")
        with pytest.raises(TableNotFoundError):
            DeltaTable(f"{store.location}/responses", storage_options=store.delta_options)
    assert server.signed_by == {"ROLEKEY us-east-1"}


def test_a_profile_that_is_not_there_is_told(profile, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(ResultsError, match=r"the profile of AWS cannot be used: .*other.* could not be found"):
        ObjectStore("s3://bucket/root", limits=LIMITS)


def test_a_profile_without_boto3_is_told(profile, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ResultsError, match="to use a profile of AWS, install boto3, or set AWS_ACCESS_KEY_ID"):
        ObjectStore("s3://bucket/root", limits=LIMITS)
