#!/usr/bin/env bash
# Take a picture of TensorBoard as `bnexp board FOLDER` opens it, with Chromium (Debian: apt-get install chromium):
#   bash scripts/figure_board.sh FOLDER IMAGE [PART] [HEIGHT]
# PART is timeseries (default), custom_scalars, histograms or hparams; the picture is 1440 pixels wide. Look at it: Chromium may be too fast for the charts.
set -eu
log=$(mktemp)
python -m bnexp board "$1" --port 6106 > "$log" 2>&1 &
trap 'kill %1; rm "$log"' EXIT
until url=$(grep -o "http://127[^ ]*" "$log"); do kill -0 %1; sleep 0.5; done
sleep 10  # TensorBoard reads the runs
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size="1440,${4:-860}" \
  --virtual-time-budget=20000 --screenshot="$2" "${url%#*}#${3:-timeseries}&_smoothingWeight=0" 2> /dev/null
