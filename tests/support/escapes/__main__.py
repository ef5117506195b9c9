"""Makes the attempts: for the child protocol, or with a file of targets for one of results.

python tests/support/escapes [TARGETS RESULTS]
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.support.escapes import table

if len(sys.argv) > 2:
    targets = json.loads(sys.argv[1])
    Path(sys.argv[2]).write_text(json.dumps(table.results(targets, targets["only"])))
else:
    targets = json.loads(sys.stdin.readline())["job"]["variables"]
    print(json.dumps({"type": "result", "value": table.results(targets, targets["only"])}))
