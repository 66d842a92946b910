"""A processor is told from what its system says of it."""

from tiny_lm import processor
from tiny_lm.processor import Processor, parse, this_processor

LINUX = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC 9655
flags\t\t: fpu avx512f

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 26
"""
WINDOWS = "Intel64 Family 6 Model 143 Stepping 8, GenuineIntel"


def test_linux_and_windows_tell_maker_and_family():
    amd = Processor("AuthenticAMD", 26, "AVX512", "AMD EPYC 9655")
    assert parse(LINUX, "AVX512") == amd
    assert parse(WINDOWS, "AVX2") == Processor("GenuineIntel", 6, "AVX2", "Intel64")


def test_what_a_system_does_not_tell_is_left_open():
    for text in ("", "arm", "processor\t: 0\nCPU implementer\t: 0x41\n"):
        assert parse(text, "DEFAULT") == Processor("", 0, "DEFAULT")


def test_it_is_printed_with_what_decides():
    assert str(parse(LINUX, "AVX2")) == "AMD EPYC 9655 (AuthenticAMD family 26, AVX2)"
    assert str(Processor("", 0, "DEFAULT")).endswith(" (DEFAULT)")


def test_without_linuxs_file_the_platform_is_asked(monkeypatch):
    def missing(self, **options):
        raise FileNotFoundError(self)

    monkeypatch.setattr(processor.Path, "read_text", missing)
    monkeypatch.setattr(processor.platform, "processor", lambda: WINDOWS)
    assert this_processor.__wrapped__().maker == "GenuineIntel"
