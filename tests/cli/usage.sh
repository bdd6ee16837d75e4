#!/usr/bin/env bash
# Help, version, wrong command lines, and ends that are not the command's fault.
# shellcheck source=/dev/null
. "$(dirname "$0")/common.bash"
model=$GOLDEN/saelens/jumprelu_f32
rows=$model/x.npy

says "version" "sae 0." "$SAE" --version
says "help names the commands" "neighbors" "$SAE" --help
says "help names the exit status" "Exit status" "$SAE" help
for command in info convert verify encode decode forward neighbors steer 'catalog build' 'catalog import' 'catalog export' search top; do
    read -ra words <<<"$command"
    says "$command --help" "Usage: sae $command" "$SAE" "${words[@]}" --help
    says "$command -h names the options of the SAE" "--norm-scaling-factor" "$SAE" "${words[@]}" -h
    ok "$command --help is all there is" test ! -s err.txt
    refuses 2 "wanted" "${words[@]}"
    refuses 2 "'--nonsense' is unknown" "${words[@]}" --nonsense x y
    refuses 2 "'-Z' is unknown" "${words[@]}" -Z
    refuses 2 "option '--isa' wants a value" "${words[@]}" --isa
    refuses 2 "--isa is auto, scalar" "${words[@]}" --isa mmx
    refuses 2 "--threads wants a number in 0 .. 1024, not 1025" "${words[@]}" --threads 1025
    refuses 2 "--threads wants a whole number, not 'two'" "${words[@]}" --threads two
    refuses 2 "--architecture is standard" "${words[@]}" --architecture lasso
    refuses 2 "--normalize-activations is none" "${words[@]}" --normalize-activations l2
    refuses 2 "--norm-scaling-factor wants a finite number, not 'nan'" "${words[@]}" --norm-scaling-factor nan
    refuses 2 "--norm-scaling-factor wants a number above 0" "${words[@]}" --norm-scaling-factor 0
    refuses 2 "--apply-b-dec is yes or no, not 'maybe'" "${words[@]}" --apply-b-dec maybe
    refuses 2 "--prepare is none" "${words[@]}" --prepare everything
    refuses 2 "--k wants a number in 1 .." "${words[@]}" --k 0
done
says "pull --help" "Usage: sae pull" "$SAE" pull --help
says "pull -h" "Usage: sae pull" "$SAE" pull -h
says "pull has no options of the SAE" "--revision" "$SAE" pull --help
says "bench --help" "Usage: sae bench" "$SAE" bench --help
says "bench -h names the options of the SAE" "--norm-scaling-factor" "$SAE" bench -h
refuses 2 "'--nonsense' is unknown" bench --nonsense x y
refuses 2 "option '--shape' wants a value" bench --shape
refuses 2 "--threads wants a number in 0 .. 1024, not 1025" bench --threads 1025
ok "pull has no options of the SAE" sh -c '! grep -q norm-scaling said.txt'
refuses 2 "a command is wanted"
refuses 2 "'encoed' is no command" encoed
refuses 2 "'z' is one too many" encode x y z
refuses 2 "takes no value" encode --json=yes "$model" "$rows"
refuses 1 "is for top-k SAEs" info "$model" --k 3

# What the operating system refuses.
: >said.txt
"$SAE" info "$model" >/dev/full 2>err.txt
check_refusal 1 "cannot write to standard output" $? "info to a full disk"
"$SAE" steer "$model" "$rows" -o - --ablate 1 >/dev/full 2>err.txt
check_refusal 1 "standard output: cannot write" $? "rows to a full disk"
"$SAE" encode "$model" "$rows" -o - >/dev/full 2>err.txt
check_refusal 1 "standard output: cannot write" $? "codes to a full disk"
TMPDIR=$WORK/nowhere "$SAE" encode "$model" "$rows" -o out/c.npz >said.txt 2>err.txt
check_refusal 1 "nowhere: cannot create a file" $? "no folder for temporary files"

# A signal in the middle leaves nothing behind: the rows come from a pipe that stalls.
mkfifo stall
exec 9<>stall
head -c 256 "$rows" >&9
"$SAE" steer "$model" - -o out/x.npy --ablate 1 <stall 9>&- 2>err.txt &
victim=$!
for _ in $(seq 100); do
    [ -n "$(ls -A out)" ] && break
    sleep 0.05
done
ok "a temporary file is there while it works" test -n "$(ls -A out)"
kill -TERM "$victim"
wait "$victim" 2>/dev/null
ok "terminated by the signal" test $? = 143
ok "nothing is left" test -z "$(ls -A out)"
exec 9>&-

finish
