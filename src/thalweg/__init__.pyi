from .detect import Budget as Budget
from .detect import Detector as Detector
from .detect import Threshold as Threshold
from .errors import ConfigError as ConfigError
from .errors import ModelError as ModelError
from .errors import ModelFormatError as ModelFormatError
from .errors import NotFittedError as NotFittedError
from .errors import SchemaError as SchemaError
from .errors import SinkError as SinkError
from .errors import SourceError as SourceError
from .errors import ThalwegError as ThalwegError
from .graph import FlowGraph as FlowGraph
from .graph import build_graph as build_graph
from .ingest import FileSource as FileSource
from .ingest import ReadOptions as ReadOptions
from .ingest import read as read
from .synthetic import SimulationConfig as SimulationConfig
from .synthetic import simulate as simulate
from .tables import Flows as Flows
from .tables import Scores as Scores
from .tables import conform as conform
from .windows import Window as Window
from .windows import by_count as by_count
from .windows import by_time as by_time

__all__: list[str]
__version__: str
