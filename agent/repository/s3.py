"""A mirror in S3-compatible storage: AWS, Swift's s3api, Ceph's radosgw and others that speak the same.

Credentials, region and endpoint come from where boto3 looks for them (environment, configuration files, instance role);
nothing of them is kept here. What never changes is stored with a long life for caches, timestamp.json with none.
"""

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from agent.errors import ConfigError

FIXED: Final = "public, max-age=31536000, immutable"
CHANGING: Final = "no-cache"


class S3Mirror:
    """s3://bucket/prefix. `endpoint`: of a server that is not AWS."""

    def __init__(self, address: str, endpoint: str | None = None) -> None:
        """Nothing is reached yet. Raises ConfigError when boto3 is missing or the address is none."""
        parts = urlsplit(address)
        if parts.scheme != "s3" or not parts.netloc:
            raise ConfigError(f"{address}: it must be s3://bucket or s3://bucket/prefix")
        try:
            import boto3
            from boto3.exceptions import Boto3Error
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as exc:
            raise ConfigError("s3:// needs boto3: install limpet-agent[publish]") from exc
        self._errors = (Boto3Error, BotoCoreError, ClientError)
        self._missing = ClientError
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._sizes: dict[str, int] | None = None
        try:
            self._client: Any = boto3.session.Session().client("s3", endpoint_url=endpoint)
        except (BotoCoreError, ValueError) as exc:
            raise self._failed(exc) from exc

    def size(self, path: str) -> int | None:
        """Bytes of a file, or None when it is not there; the bucket is listed once."""
        if self._sizes is None:
            self._sizes = self._listed()
        return self._sizes.get(self._key(path))

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """A small file, or None when it is not there."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(path))
            data: bytes = answer["Body"].read(limit_bytes + 1)
        except self._errors as exc:
            if isinstance(exc, self._missing) and exc.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise self._failed(exc) from exc
        if len(data) > limit_bytes:
            raise ConfigError(f"s3://{self._bucket}/{self._key(path)}: larger than {limit_bytes} bytes")
        return data

    def write(self, path: str, source: Path, fixed: bool) -> None:
        """Upload a file; the store shows it when it is whole."""
        key = self._key(path)
        kind = "application/json" if path.endswith(".json") else "application/octet-stream"
        extra = {"ContentType": kind, "CacheControl": FIXED if fixed else CHANGING}
        try:
            self._client.upload_file(str(source), self._bucket, key, ExtraArgs=extra)
        except (*self._errors, OSError) as exc:
            raise self._failed(exc) from exc
        if self._sizes is not None:
            self._sizes[key] = source.stat().st_size

    def _listed(self) -> dict[str, int]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        try:
            return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", ())}
        except self._errors as exc:
            raise self._failed(exc) from exc

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    def _failed(self, exc: BaseException) -> ConfigError:
        words = "check the bucket, the endpoint (--endpoint-url) and the credentials that boto3 finds"
        return ConfigError(f"s3://{self._bucket}/{self._prefix}: {exc}: {words}")
