#!/usr/bin/env bash
# Take pictures of TensorBoard as `bnexp board` opens it, with Chromium (Debian: apt-get install chromium):
#   bash scripts/figure_board.sh FOLDER IMAGES
# writes tensorboard.png, tensorboard_charts.png (Custom Scalars), tensorboard_histograms.png and tensorboard_hparams.png
# into IMAGES.
set -eu
folder=$1 images=$2
log=$(mktemp)
bnexp board "$folder" --port 6106 > "$log" 2>&1 &
trap 'kill %1; rm "$log"' EXIT
until url=$(grep -o 'http://127[^ ]*' "$log"); do sleep 0.5; done
sleep 10  # TensorBoard reads the runs

shoot() {  # name, part of the page, height
  chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size="1280,$3" \
    --virtual-time-budget=20000 --screenshot="$images/$1.png" "${url%#*}#$2&_smoothingWeight=0" 2> /dev/null
}
shoot tensorboard timeseries 860
shoot tensorboard_charts custom_scalars 1500
shoot tensorboard_histograms histograms 860
shoot tensorboard_hparams hparams 720
