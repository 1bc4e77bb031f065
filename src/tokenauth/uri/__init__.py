"""PKCS#11 URIs (RFC 7512): the one name a library, slot, token, key or certificate has.

What RFC 7512 leaves open is decided here:

- Blanks, tabs and line breaks in the text are ignored (RFC 7512 section 3, RFC 3986 appendix C, p11-kit), so that a
  folded URI can be pasted. Inside a ``pin-value`` they are refused: a PIN with a lost blank would cost a login attempt.
- An unrecognised path attribute is kept, and then the URI matches nothing; an unrecognised query attribute is kept and
  ignored (section 2.5). A known attribute in the wrong component is refused (section 2.3: names must not clash).
- Attribute names and ``type`` values are read in any letter case (strings of RFC 5234 grammars), written in lower case.
- A value that cannot be in its PKCS#11 field, by length or range, is refused (section 2.3), as is a relative
  ``module-path`` (section 2.4).
- Fields of fixed size are padded with blanks, by some modules with NULs. Such padding is dropped from a URI's values
  (p11-kit prints ``model=SLB9672%00%00``) and from the fields compared with them. Any other NUL is refused.
- Text is compared in Normalization Form C (sections 2.5 and 5), otherwise exactly.

A ``pin-value`` is shown by ``TokenURI.to_string(reveal_pin=True)`` and by ``TokenURI.pin_value``, and by nothing else.
"""

from tokenauth.uri.matching import LibraryInfo, ObjectInfo, SlotInfo, TokenInfo
from tokenauth.uri.syntax import MAX_LENGTH
from tokenauth.uri.uri import TokenURI

__all__ = ["MAX_LENGTH", "LibraryInfo", "ObjectInfo", "SlotInfo", "TokenInfo", "TokenURI"]
