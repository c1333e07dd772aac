"""Download of WordNet's database files, checked by hash."""

import logging
import zipfile
from pathlib import Path

from antidote.base.errors import UserError
from antidote.base.files import sha256, whole_folder
from antidote.base.network import limited
from antidote.data.words.lexicon import FILES

# WordNet 3.0 (Princeton University 2006; its licence allows use and redistribution), as distributed by NLTK.
URL = "https://raw.githubusercontent.com/nltk/nltk_data/550b6625bcef1f2abff2ff770a5a0d272c9c6b2a/packages/corpora/wordnet.zip"
SHA256 = "cbda5ea6eef7f36a97a43d4a75f85e07fccbb4f23657d27b4ccbc93e2646ab59"
ADVICE = (
    "give a copy of that archive by --archive, or a folder of database files as the study's lexicon: wordnet:FOLDER"
)

log = logging.getLogger("antidote")


def fetch(folder: Path, archive: Path | None = None, url: str = URL, digest: str = SHA256) -> None:
    """Write the database files to `folder`, completely or not at all.

    Args:
        folder: the folder to write.
        archive: a local copy of the archive; None: the archive is downloaded from `url`.
        url: address of the archive.
        digest: required SHA-256 of the archive.

    Raises:
        UserError: no network, another hash, or an archive without the files.
    """
    with whole_folder(folder) as temporary:
        path = archive or _downloaded(url, temporary / "wordnet.zip")
        if not path.is_file():
            raise UserError(f"{path}: no such file; {ADVICE}")
        if (found := sha256(path)) != digest:
            raise UserError(f"{archive or url}: its SHA-256 is {found}, not {digest}; {ADVICE}")
        with zipfile.ZipFile(path) as content:
            missing = sorted({f"wordnet/{name}" for name in FILES} - set(content.namelist()))
            if missing:
                raise UserError(f"{archive or url}: holds no {missing[0]}; {ADVICE}")
            for name in FILES:
                (temporary / name).write_bytes(content.read(f"wordnet/{name}"))
        (temporary / "wordnet.zip").unlink(missing_ok=True)
    log.info("WordNet 3.0 in %s", folder)


def _downloaded(url: str, path: Path) -> Path:
    from torch.hub import download_url_to_file

    log.info("fetching %s", url)
    try:
        with limited():
            download_url_to_file(url, str(path), progress=False)
    except OSError as error:
        raise UserError(f"{url}: cannot be fetched ({error}); {ADVICE}") from None
    return path
