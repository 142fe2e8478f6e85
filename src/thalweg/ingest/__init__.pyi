from .files import FileSource as FileSource
from .files import expand as expand
from .files import read as read
from .options import ReadOptions as ReadOptions
from .tabular.dialects.recognition import DIALECTS as DIALECTS

__all__: list[str]
