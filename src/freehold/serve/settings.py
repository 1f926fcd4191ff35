"""What `freehold serve` can be told; flags, environment and config file say the same."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from freehold.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Raises RequestError for what would be unsafe or cannot be."""

    models: tuple[str, ...] = ()  # the first is loaded at the start and answers where none is named
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()  # none: everybody on this machine may ask
    admin_key: str | None = None  # of the routes that load and unload models; None: there are none
    allowed_hosts: tuple[str, ...] = ()  # names under which the server may be asked, beside localhost
    origins: tuple[str, ...] = ()  # of pages elsewhere that may ask
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    context: int | None = None
    threads: int | None = None
    kv_type: str = "int16"
    quantize: str | None = None  # to what unquantized weights are quantized while they load
    memory_bytes: int | None = None  # that all loaded models may take together; None: what the machine has
    max_waiting: int = 256  # requests; more are told to come back later
    max_body_bytes: int = 16 << 20
    drain_s: float = 30.0  # seconds that running replies get at the end
    log_prompts: bool = False  # texts of prompts and replies too

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.api_keys:
            raise RequestError(
                f"--host {self.host}: others could use the model without a key",
                "set one by --api-key, --api-key-file or FREEHOLD_API_KEY",
            )
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise RequestError("TLS: a certificate and its key are needed", "--tls-certificate FILE --tls-key FILE")
        if "*" in self.origins and self.api_keys:
            raise RequestError("--origin *: any page could use a key that it learns", "name the origins")
        for name, keys in (("--api-key", self.api_keys), ("--admin-key", (self.admin_key,) if self.admin_key else ())):
            for key in keys:
                if len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key:
                    raise RequestError(f"{name}: expected at least 8 printable ASCII characters without spaces")
        if self.admin_key in self.api_keys:
            raise RequestError("--admin-key: expected another key than those of the API")

    def url(self, port: int) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_certificate else 'http'}://{host}:{port}"


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
