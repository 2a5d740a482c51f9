# SPDX-License-Identifier: Apache-2.0
"""device: cuda:N where it can not be had: every reason said, nothing on the processor instead, nobody else harmed."""

import ctypes
import pathlib

import pytest

import flow

INTENT = flow.EXAMPLES / "intent" / "1"
CORE = flow.ROOT / ".deps" / "lib" / "libonnxruntime.so.1"
GPU = flow.ROOT / ".deps" / "gpu" / "lib" / "libonnxruntime-cuda.so.1"


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return pathlib.Path("/usr/local/nvidia/lib64/libcuda.so.1").exists()
    return True


# ---- the word -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("{device: gpu}", "weir.yaml:3:12: families.vision.device: 'gpu' is no device: cpu, or cuda:N (cuda:0)"),
        ("{device: 'cuda:01'}", "weir.yaml:3:12: families.vision.device: 'cuda:01' is no device"),
        ("{instances: 1, device: 'cuda:64'}", "weir.yaml:3:26: families.vision.device: 'cuda:64' is no device"),
        ("{place: inline, device: 'cuda:0'}", "weir.yaml:3:27: families.vision.device: cuda:0 is for place: worker"),
    ],
)
def test_refused_at_the_start(serve, family, said):
    s = serve(f"families:\n  default: {{}}\n  vision: {family}\n", start=False)
    s.start(wait=False)
    assert s.process.wait(30) == 1
    assert said in s.log()
    flow.LIVE.remove(s)
    s.process = None


# ---- a push that can not have its device ----------------------------------------------------------------------------


def refused(s, name, said):
    """The push of a model to the family fails with that reason; what runs on the processor goes on."""
    done = s.weir("push", name, INTENT)
    assert done.status == 1 and said in done.err, done
    assert [m["name"] for m in s.get("/admin/models")["models"]] == ["intent"]
    assert s.weir("infer", name).status == 1
    assert s.ok("infer", "intent").status == 0


def test_no_provider(serve):
    s = serve(f"onnxruntime: {CORE}\nfamilies:\n  vision: {{device: 'cuda:0'}}\n")
    s.ok("push", "intent", INTENT)
    refused(s, "vision", "device cuda:0: the CUDA provider is not here (make gpu fetches it)")


def test_provider_without_driver(serve, tmp_path):
    """The provider's file is enough to come to the driver, which is looked for first."""
    if has_driver():
        pytest.skip("there is a driver of an NVIDIA GPU on this machine")
    core = GPU if GPU.exists() else CORE
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libonnxruntime.so.1").symlink_to(core)
    (tmp_path / "lib" / "libonnxruntime_providers_cuda.so").touch()
    s = serve(f"onnxruntime: {tmp_path}/lib/libonnxruntime.so.1\nfamilies:\n  vision: {{device: 'cuda:3'}}\n")
    s.ok("push", "intent", INTENT)
    refused(s, "vision", "device cuda:3: no driver of an NVIDIA GPU on this machine: libcuda.so.1: cannot open")


def test_family_moves_to_a_gpu(serve):
    """A version that was served on the processor is not served there when its family says cuda."""
    s = serve("families:\n  vision: {device: cpu}\n")
    s.ok("push", "intent", INTENT)
    s.ok("push", "vision", INTENT)
    s.stop()
    s.conf = f"onnxruntime: {CORE}\nfamilies:\n  vision: {{device: 'cuda:0'}}\n"
    s.start()
    version = s.model("vision")["versions"][0]
    assert version["state"] == "failed" and "device cuda:0: the CUDA provider is not here" in version["error"], version
    assert s.weir("infer", "vision").status == 1
    assert s.ok("infer", "intent").status == 0
