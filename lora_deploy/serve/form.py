"""A form as it arrives: finds the one file in it, and keeps nothing else."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from lora_deploy.web.bodies import FORM_BYTES
from lora_deploy.web.turned import Turned


class FormFile:
    """Takes a ``multipart/form-data`` body part by part and gives the bytes of its file.

    Args:
        content_type: The header of that name.

    Raises:
        Turned: It names no boundary.
    """

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise _bad("the form names no boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_content,
                    "on_part_data": self._content,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise _bad("the form's boundary is too long") from None
        self._name, self._value = b"", b""
        self._disposition = b""
        self._in_file = False
        self._files = 0
        self._found: list[bytes] = []
        self._is_whole = False
        self._around_bytes = 0

    def take(self, data: bytes) -> bytes:
        """What of the file is in the next part of the body.

        Raises:
            Turned: This is no form, or not one with one file and nothing else.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise _bad("the form is malformed") from None
        found, self._found = b"".join(self._found), []
        self._around_bytes += len(data) - len(found)
        if self._around_bytes > FORM_BYTES:
            raise _bad(f"the form has more than {FORM_BYTES} bytes around its file")
        return found

    def check_whole(self) -> None:
        """See whether the end was the end.

        Raises:
            Turned: Something is missing.
        """
        if not self._is_whole:
            raise _bad("the form ends before its last boundary")
        if not self._files:
            raise _bad("the form has no file; send the video as the field file")

    def _begin_part(self) -> None:
        self._disposition = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._in_file = b"filename" in options
        if not self._in_file:
            name = options.get(b"name", b"").decode("utf-8", "replace")
            raise _bad(
                f"the form has a field {name[:40]!r} that is no file; what to ask is said in the "
                "address, as in ?top_k=3"
            )
        self._files += 1
        if self._files > 1:
            raise _bad("the form has more than one file; send one video a request")

    def _content(self, data: bytes, start: int, end: int) -> None:
        self._found.append(data[start:end])

    def _end(self) -> None:
        self._is_whole = True


def _bad(text: str) -> Turned:
    return Turned(400, "bad_request", text)
