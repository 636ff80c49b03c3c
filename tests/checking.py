"""How annotations are checked under the tests: as PEP 484 reads them, a whole number is a float."""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
