"""Task 3.1: what one token leaves in the cache, for any kind of attention.

Chapter: 03_mla/memory_of_the_context
Source: deepseek_v2, table 1; deepseek_isca, table 1
"""

from torch import Generator, randint

from tiny_lm.config import (
    MHAConfig,
    MLAConfig,
    deepseek_v2,
    deepseek_v3,
    llama_405b,
    qwen_72b,
)
from tiny_lm.course.checks.case import case, drawn
from tiny_lm.course.checks.task import Task


def cache_bytes(
    attention: MHAConfig | MLAConfig, num_layers: int, bytes_per_number: int
) -> int:
    """Bytes that one token of one sequence takes in the caches of all layers."""
    if isinstance(attention, MLAConfig):
        numbers = attention.d_latent_kv + attention.d_rope
    else:
        numbers = 2 * attention.num_kv_heads * attention.d_head
    return num_layers * numbers * bytes_per_number


task_3_1 = Task(
    id="3.1",
    lab="03_mla",
    title="Bytes of a token",
    name="cache_bytes",
    piece="mla.cache_bytes",
    difficulty=1,
    minutes=12,
    points=2,
    reference=cache_bytes,
    returns=("bytes",),
    tolerance=1e-9,
    errors={
        "object has no attribute": "The two kinds of attention have fields of their "
        "own. `isinstance(attention, MLAConfig)` tells which one came.",
    },
    hints=(
        """
        First ask of one layer: which vectors of a token does a later token look at, how
        many are they, and how wide? Only then come layers and bytes.
        """,
        """
        With heads: a key and a value for each key-value head, both d_head wide. Query
        heads are not counted, for nobody looks at an old query. With a latent: the one
        latent and the one rotary key, which all heads share, and no values.
        """,
        """
        In a layer there are 2 * attention.num_kv_heads * attention.d_head numbers, or
        attention.d_latent_kv + attention.d_rope where isinstance(attention, MLAConfig).
        Multiply them by num_layers and by bytes_per_number.
        """,
    ),
)


def heads(num_heads: int, num_kv_heads: int, d_head: int) -> MHAConfig:
    """Attention with heads, in one line."""
    return MHAConfig(num_heads=num_heads, num_kv_heads=num_kv_heads, d_head=d_head)


task_3_1.asks(
    "plain heads leave a key and a value each, in every layer",
    case(heads(3, 3, 4), 1, 1, note="three keys and three values, 4 numbers each"),
    case(heads(3, 3, 4), 5, 2),
    otherwise="Two vectors for each key-value head, d_head wide, in each layer, and "
    "so many bytes a number. What else comes in, or is left out?",
    mistakes={
        "2 * attention.num_kv_heads => attention.num_kv_heads": "One vector for each "
        "head was counted. A later token compares itself with the key and brings home "
        "the value.",
        "2 * attention.num_kv_heads => 3 * attention.num_kv_heads": "Three vectors for "
        "each head were counted. No later token looks at an old query.",
        "num_layers * numbers => numbers": "This is one layer. Each has a cache of its "
        "own.",
        "numbers * bytes_per_number => numbers": "These are numbers. How many bytes "
        "does each of them take?",
        "numbers * bytes_per_number => numbers * 2": "Two bytes stand there for every "
        "number, whatever comes in as `bytes_per_number`.",
        "attention.num_kv_heads => (attention.num_heads // attention.num_kv_heads)": (
            "This is how many query heads share one key-value head. How many "
            "key-value heads are there?"
        ),
        " * attention.d_head => ": "Vectors were counted. Each holds d_head numbers.",
        "attention.num_kv_heads * attention => attention": "One head was counted. "
        "Each key-value head has a key and a value of its own.",
        "numbers * bytes_per_number => numbers / bytes_per_number": "A number takes "
        "`bytes_per_number` bytes: multiply.",
        "numbers * bytes_per_number => numbers * bytes_per_number * 8": "These are "
        "bits. Bytes are wanted.",
        "num_layers * numbers => 2 * num_layers * numbers": "A factor of 2 came twice. "
        "Key and value are two vectors; the bytes come in by themselves.",
    },
)

task_3_1.asks(
    "what query heads share is kept once",
    case(heads(6, 2, 4), 1, 1, note="six heads that ask, two keys and two values"),
    case(heads(8, 1, 2), 3, 2),
    mistakes={
        "attention.num_kv_heads => attention.num_heads": "The heads that ask were "
        "counted. In the cache stand the keys and values that they share.",
        "2 * attention.num_kv_heads => "
        "(attention.num_heads + attention.num_kv_heads)": (
            "Query heads were counted as if they had keys. Keys and values both belong "
            "to key-value heads."
        ),
        "numbers = 2 * => numbers = (1 if attention.num_kv_heads == 1 else 2) *": (
            "Where all heads share one key-value head, it still has a key and a value."
        ),
    },
)

TWICE = (
    "Two of something were counted. One latent gives the keys and the values, and "
    "the rotary key is a key alone: each is kept once."
)
LATENT = MLAConfig(
    num_heads=4, d_latent_kv=16, d_latent_q=24, d_nope=10, d_rope=6, d_value=8
)

task_3_1.asks(
    "a latent and a rotary key are kept once, for all heads",
    case(LATENT, 1, 1, note="a latent of 16 numbers, a rotary key of 6"),
    case(LATENT, 3, 2),
    otherwise="All heads read one latent and one rotary key. What else was counted?",
    mistakes={
        "attention.d_latent_kv + attention.d_rope => attention.d_latent_kv": "The "
        "rotary key is missing. It cannot be made from the latent, so it is kept "
        "beside it.",
        "attention.d_latent_kv + attention.d_rope => "
        "2 * (attention.d_latent_kv + attention.d_rope)": TWICE,
        "attention.d_latent_kv + attention.d_rope => "
        "2 * attention.d_latent_kv + attention.d_rope": TWICE,
        "attention.d_latent_kv + attention.d_rope => "
        "attention.d_latent_kv + 2 * attention.d_rope": TWICE,
        "attention.d_latent_kv + attention.d_rope => "
        "attention.d_latent_kv + attention.num_heads * attention.d_rope": "This keeps "
        "a rotary key for each head. There is one, and all heads compare with it.",
        "attention.d_latent_kv + attention.d_rope => "
        "attention.num_heads * (attention.d_latent_kv + attention.d_rope)": "This "
        "keeps a latent for each head. There is one, and each head makes its own keys "
        "and values from it.",
        "attention.d_latent_kv + attention.d_rope => attention.num_heads * "
        "(attention.d_nope + attention.d_rope + attention.d_value)": "These are the "
        "keys and values of all heads, made from the latent. If they were kept, the "
        "latent would save nothing.",
        "attention.d_latent_kv + attention.d_rope => "
        "attention.num_heads * (attention.d_nope + attention.d_value)": "These are "
        "keys and values of all heads. Kept is what they are made from.",
        "attention.d_latent_kv + attention.d_rope => "
        "attention.d_latent_kv + attention.d_latent_q + attention.d_rope": "Queries "
        "have a latent too, but no later token looks at an old query.",
        "attention.d_latent_kv + attention.d_rope => "
        "attention.d_latent_q + attention.d_rope": "This is the latent of the queries. "
        "Kept is that of keys and values.",
        "attention.d_latent_kv + attention.d_rope => "
        "attention.d_latent_kv + attention.d_nope": "Beside the latent stands the "
        "rotary key. What is d_nope wide is made from the latent.",
    },
)


def _any(generator: Generator) -> tuple:
    n = randint(1, 50, (6,), generator=generator).tolist()
    attention = MLAConfig(
        num_heads=n[0],
        d_latent_kv=n[1],
        d_latent_q=None,
        d_nope=n[2],
        d_rope=2 * n[3],
        d_value=n[4],
    )
    return attention, n[5], 4


task_3_1.asks(
    "four published models: DeepSeek-V3 and V2, Qwen 72B, LLaMA 405B",
    *(
        case(model.attention, model.num_layers, 2)
        for model in (deepseek_v3(), deepseek_v2(), qwen_72b(), llama_405b())
    ),
    drawn(_any),
    mistakes={
        "num_layers * numbers => min(num_layers, 60) * numbers": "The number of layers "
        "stands there as a number. It is handed over.",
    },
)


@task_3_1.accepts
def vector_by_vector(attention, layers, width):
    if isinstance(attention, MHAConfig):
        vectors = [attention.d_head, attention.d_head] * attention.num_kv_heads
    else:
        vectors = [attention.d_latent_kv, attention.d_rope]
    return sum(sum(vectors) * width for _ in range(layers))


@task_3_1.accepts
def asks_for_a_field(attention, num_layers, bytes_per_number):
    if hasattr(attention, "d_latent_kv"):
        kept = attention.d_latent_kv + attention.d_rope
    else:
        kept = attention.d_head * attention.num_kv_heads * 2
    return float(kept * num_layers * bytes_per_number)
