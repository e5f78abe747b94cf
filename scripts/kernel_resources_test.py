"""scripts/kernel_resources.py against known occupancies and a log of nvcc's."""

import unittest

import kernel_resources as kr

LOG = """[1/2] Building CUDA object mat_mul.cu.o
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7hostler12MatMulKernelILNS_5DTypeE10ELi8EEEvNS_10MatMulTaskEl' for 'sm_90'
ptxas info    : Function properties for _ZN7hostler12MatMulKernelILNS_5DTypeE10ELi8EEEvNS_10MatMulTaskEl
    16 bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 16 bytes stack, 4608 bytes smem
ptxas info    : Compile time = 93.717 ms
ptxas info    : Compiling entry function '_ZN7hostler12MatMulKernelILNS_5DTypeE10ELi8EEEvNS_10MatMulTaskEl' for 'sm_89'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 70 registers, used 0 barriers
"""


class Occupancy(unittest.TestCase):
    # Of NVIDIA's occupancy calculator.
    def check(self, arch, registers, threads, shared, warps):
        limits = kr.ARCHITECTURES[arch]
        self.assertEqual(kr.occupancy(limits, registers, threads, shared) * limits.warps, warps)

    def test_by_registers(self):
        self.check("sm_80", 32, 256, 0, 64)
        self.check("sm_80", 33, 256, 0, 48)  # 1280 a warp: 51, 48 of them in fours
        self.check("sm_80", 128, 128, 0, 16)
        self.check("sm_80", 255, 256, 0, 8)
        self.check("sm_89", 40, 128, 0, 48)
        self.check("sm_90", 72, 128, 0, 28)

    def test_by_shared_memory(self):
        self.check("sm_80", 32, 256, 48 << 10, 24)  # three blocks of 49 KiB in 164
        self.check("sm_89", 32, 256, 48 << 10, 16)
        self.check("sm_90", 32, 256, 48 << 10, 32)
        self.check("sm_90", 32, 128, 227 << 10, 4)
        self.check("sm_90", 32, 128, 228 << 10, 0)  # cannot be launched

    def test_by_blocks_and_threads(self):
        self.check("sm_80", 16, 32, 0, 32)  # 32 blocks of a warp
        self.check("sm_89", 16, 32, 0, 24)
        self.check("sm_90", 16, 1024, 0, 64)
        self.check("sm_89", 16, 1024, 0, 32)  # a second block has no room
        self.check("sm_80", 16, 33, 0, 64)  # 33 threads are two warps


class Logs(unittest.TestCase):
    def read(self, stores=0, loads=0, more=""):
        kernels, warnings = kr.parse_ptxas(LOG.format(stores=stores, loads=loads) + more)
        kr.name_kernels(kernels)
        return kernels, warnings

    def test_are_read(self):
        kernels, warnings = self.read()
        self.assertEqual([k.name for k in kernels], ["MatMulKernel<Q4_K, 8>"] * 2)
        self.assertEqual([(k.arch, k.registers, k.shared_bytes) for k in kernels],
                         [("sm_90", 128, 4608), ("sm_89", 70, 0)])  # fmt: skip
        self.assertEqual((kernels[0].stack_bytes, warnings), (16, []))
        self.assertIn("| `MatMulKernel<Q4_K, 8>` | 128 | 4608 + 0 | 70, 58% | 128, 25% |", kr.markdown(kernels))

    def test_spills_warnings_and_strangers_are_problems(self):
        self.assertEqual(kr.problems(*self.read()), [])
        self.assertEqual(kr.problems(*self.read(4, 8)), ["MatMulKernel<Q4_K, 8> for sm_90 spills 12 bytes"])
        self.assertEqual(kr.problems(*self.read(4, 4)), [])
        found = kr.problems(*self.read(more="a.cu(3): warning #177-D: variable was never used\n"))
        self.assertEqual(len(found), 1)
        self.assertEqual(kr.problems(*self.read(more="a.cc:113:14: warning: out of bounds\n")), [])
        kernels, _ = self.read()
        kernels[0].name = "NewKernel<1>"
        self.assertIn("NewKernel: how it is launched", kr.problems(kernels, [])[0])
        self.assertIn("no kernel in the log", kr.problems([], [])[0])

    def test_low_occupancy_is_marked(self):
        kernels, _ = self.read()
        kernels[0].registers = 168
        self.assertIn("168, 19% **low**", kr.markdown(kernels))


class Names(unittest.TestCase):
    def test_are_short(self):
        types = kr.dtype_names()
        self.assertEqual(types[:5], ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
        for demangled, short in {
            "hostler::(anonymous namespace)::GateKernel(hostler::GateTask, hostler::Mat)": "GateKernel",
            "void hostler::(anonymous namespace)::AttentionKernel<(hostler::DType)3, 16>(hostler::P)":
                "AttentionKernel<Q8_0, 16>",
        }.items():  # fmt: skip
            self.assertEqual(kr.shorten(demangled, types), short)


if __name__ == "__main__":
    unittest.main()
