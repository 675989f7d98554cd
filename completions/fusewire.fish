# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_fusewire_global_optspecs
    string join \n v/verbose q/quiet log= log-file= report-ready h/help V/version
end

function __fish_fusewire_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_fusewire_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_fusewire_using_subcommand
    set -l cmd (__fish_fusewire_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c fusewire -n "__fish_fusewire_needs_command" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_needs_command" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_needs_command" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_needs_command" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_needs_command" -l report-ready -d 'Set for the process in the background: tell on standard output that the mount works'
complete -c fusewire -n "__fish_fusewire_needs_command" -s h -l help -d 'Print help'
complete -c fusewire -n "__fish_fusewire_needs_command" -s V -l version -d 'Print version'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "mount" -d 'Mount a directory, or a filesystem in memory'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "m" -d 'Mount a directory, or a filesystem in memory'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "unmount" -d 'Unmount a FUSE mount, and tell who uses it if that fails'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "umount" -d 'Unmount a FUSE mount, and tell who uses it if that fails'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "probe" -d 'Tell what this kernel, this user and a directory allow'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "bench" -d 'Measure channels, peers and the directory beneath at the same work'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "install-helper" -d 'Make `mount -t fuse.fusewire` and fstab work'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "completions" -d 'Print a script that completes command lines of fusewire'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "man" -d 'Write the manual pages into a directory'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l fs -d 'What to mount [default: passthrough]' -r -f -a "passthrough\t'The directory SRC'
mem\t'A filesystem in memory; SRC is `none`'
null\t'Accepts all data and keeps none of it, for measurements; SRC is `none`'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l size -d 'With --fs mem: room for the content of files, such as 512M [default: 1G]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s o -l options -d 'Mount options, separated by commas; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l cache -d 'How much the kernel remembers between requests [default: auto]' -r -f -a "none\t'Nothing: each access asks, as if several machines wrote to SRC'
auto\t'Names and attributes for a second, data as long as the file has not changed'
always\t'Everything, until it is changed through the mount: SRC must not be changed in other ways'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l entry-timeout -d 'How long the kernel trusts a name it has seen' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l attr-timeout -d 'How long the kernel trusts sizes, times and modes' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l negative-timeout -d 'How long the kernel trusts that a name does not exist' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l channel -d 'How requests come from the kernel; `fusewire probe` tells what auto comes to, and why [default: auto]' -r -f -a "auto\t'Over io_uring where that can be had, else /dev/fuse'
dev-fuse\t'By reading and writing /dev/fuse'
uring\t'Over io_uring, a ring for each CPU; mounting fails where that cannot be had'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l memory -d 'What the buffers of the rings may take together, such as 64M. Each CPU has one at least, never below 64K: less than 1M for each lowers the longest read and write [default: 64M, or 2M for each CPU if that is more]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l threads -d 'Threads that serve requests [default: one per CPU]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l max-write -d 'Longest write request, such as 128K or 1M [default: what the kernel allows]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l file-handles -d 'Remember files by file handle instead of keeping each of them open [default: auto]' -r -f -a "auto\t'Where the directory and the rights of the user allow it'
never\t'Never: each file that the kernel knows costs a file descriptor'
always\t'Always: fail where it is not possible'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s r -l read-only -d 'Nothing can be changed through the mount (-o ro)'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l allow-other -d 'Every user may use the mount; the default for root'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l private -d 'Only the user who mounts may use it; the default for anyone but root'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s d -l daemon -d 'Go to the background once the mount works; a failure to mount is still reported here'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l auto-unmount -d 'The mount goes away with the daemon, even if it is killed'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l dry-run -d 'Check everything that can be checked beforehand, and mount nothing'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l sloppy -d 'Options in -o that are not known are ignored, as mount(8) asks for with -s'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l fs -d 'What to mount [default: passthrough]' -r -f -a "passthrough\t'The directory SRC'
mem\t'A filesystem in memory; SRC is `none`'
null\t'Accepts all data and keeps none of it, for measurements; SRC is `none`'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l size -d 'With --fs mem: room for the content of files, such as 512M [default: 1G]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -s o -l options -d 'Mount options, separated by commas; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l cache -d 'How much the kernel remembers between requests [default: auto]' -r -f -a "none\t'Nothing: each access asks, as if several machines wrote to SRC'
auto\t'Names and attributes for a second, data as long as the file has not changed'
always\t'Everything, until it is changed through the mount: SRC must not be changed in other ways'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l entry-timeout -d 'How long the kernel trusts a name it has seen' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l attr-timeout -d 'How long the kernel trusts sizes, times and modes' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l negative-timeout -d 'How long the kernel trusts that a name does not exist' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l channel -d 'How requests come from the kernel; `fusewire probe` tells what auto comes to, and why [default: auto]' -r -f -a "auto\t'Over io_uring where that can be had, else /dev/fuse'
dev-fuse\t'By reading and writing /dev/fuse'
uring\t'Over io_uring, a ring for each CPU; mounting fails where that cannot be had'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l memory -d 'What the buffers of the rings may take together, such as 64M. Each CPU has one at least, never below 64K: less than 1M for each lowers the longest read and write [default: 64M, or 2M for each CPU if that is more]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l threads -d 'Threads that serve requests [default: one per CPU]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l max-write -d 'Longest write request, such as 128K or 1M [default: what the kernel allows]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l file-handles -d 'Remember files by file handle instead of keeping each of them open [default: auto]' -r -f -a "auto\t'Where the directory and the rights of the user allow it'
never\t'Never: each file that the kernel knows costs a file descriptor'
always\t'Always: fail where it is not possible'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -s r -l read-only -d 'Nothing can be changed through the mount (-o ro)'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l allow-other -d 'Every user may use the mount; the default for root'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l private -d 'Only the user who mounts may use it; the default for anyone but root'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -s d -l daemon -d 'Go to the background once the mount works; a failure to mount is still reported here'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l auto-unmount -d 'The mount goes away with the daemon, even if it is killed'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l dry-run -d 'Check everything that can be checked beforehand, and mount nothing'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l sloppy -d 'Options in -o that are not known are ignored, as mount(8) asks for with -s'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand unmount" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand unmount" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand unmount" -s l -l lazy -d 'Out of sight now, ended with its last user'
complete -c fusewire -n "__fish_fusewire_using_subcommand unmount" -s a -l abort -l force -d 'End the connection first: everybody who waits for the filesystem gets an error'
complete -c fusewire -n "__fish_fusewire_using_subcommand unmount" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand unmount" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand unmount" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand umount" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand umount" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand umount" -s l -l lazy -d 'Out of sight now, ended with its last user'
complete -c fusewire -n "__fish_fusewire_using_subcommand umount" -s a -l abort -l force -d 'End the connection first: everybody who waits for the filesystem gets an error'
complete -c fusewire -n "__fish_fusewire_using_subcommand umount" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand umount" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand umount" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -l json -d 'Print JSON'
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -l offer-only -d 'Only ask the kernel for its FUSE protocol, and print that as JSON'
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -f -a "run" -d 'Measure workloads on targets, in turn'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -f -a "passthrough" -d 'Names and data of a re-exported directory: `run passthrough`'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -f -a "memory" -d 'Resident memory of a daemon: idle, and per file the kernel knows'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -f -a "compare" -d 'Fail if a result is worse than another one beyond noise'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -f -a "report" -d 'Tables and plots of a stored result'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -f -a "list" -d 'Presets, targets found on this machine, and what workload files may say'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -f -a "echo" -d 'Send back what comes in: the other end of the target `pipe`'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and not __fish_seen_subcommand_from run passthrough memory compare report list echo help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l workloads -d 'Run the workloads of this file; may be repeated' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -s t -l target -d 'What to measure; may be repeated [default: what the preset says]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l profile -d 'Caching profile of targets that do not say cache=... [default: what the preset says, or auto]' -r -f -a "none\t'Nothing: every use of a name or attribute asks the daemon'
auto\t'For a short time'
always\t'For as long as there is memory'"
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l fusewire -d 'Release binary of fusewire [default: beside this program]' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l fuser -d 'The example `fuser_passthrough` [default: in `examples` beside this program]' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l fusewire-arg -d 'One more argument for `fusewire mount`, such as --fusewire-arg=--no-acl; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l fuser-arg -d 'One more argument for `fuser_passthrough`; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l peers -d 'More peers: TOML, one line each, NAME = { programs = [...], run = "... {src} {mnt}" }' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l peers-dir -d 'Directory with programs of peers, looked into before the PATH; may be repeated' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l lower -d 'What the source directory lies on: `tmpfs`, or an existing directory in which a new one is made; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l limit -d 'Seconds after which a step without end is aborted' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l json -d 'Also write everything that was measured to this file, for `report` and `compare`' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l markdown -d 'Also write the tables to this file' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l html -d 'Also write a page with plots to this file; it needs no other file' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l workload -d 'Only this workload; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l threads -l jobs -d 'Numbers of client threads [default: what the workload says]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l reps -d 'Turns of each target at each row' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l warmup -d 'Turns before them that do not count' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l scale -d 'Factor on the work of one turn' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l retries -d 'How often a turn is done again if others used the machine meanwhile; the quietest counts' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l noisy -d 'Percent of the machine that others may use before a row counts as noisy' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l cpu -d 'Keep all clients on this CPU, or on `any` [default: what the preset says, or any]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l subject -d 'A target of interest; may be repeated [default: all with a daemon]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l baseline -d 'The target they are compared with [default: fuser, pipe, the first with a daemon, or native]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -l pin -d 'Keep each client thread on a CPU of its own, as far as there are enough; daemons stay free'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -s t -l target -d 'What to measure; may be repeated [default: what the preset says]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l profile -d 'Caching profile of targets that do not say cache=... [default: what the preset says, or auto]' -r -f -a "none\t'Nothing: every use of a name or attribute asks the daemon'
auto\t'For a short time'
always\t'For as long as there is memory'"
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l fusewire -d 'Release binary of fusewire [default: beside this program]' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l fuser -d 'The example `fuser_passthrough` [default: in `examples` beside this program]' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l fusewire-arg -d 'One more argument for `fusewire mount`, such as --fusewire-arg=--no-acl; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l fuser-arg -d 'One more argument for `fuser_passthrough`; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l peers -d 'More peers: TOML, one line each, NAME = { programs = [...], run = "... {src} {mnt}" }' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l peers-dir -d 'Directory with programs of peers, looked into before the PATH; may be repeated' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l lower -d 'What the source directory lies on: `tmpfs`, or an existing directory in which a new one is made; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l limit -d 'Seconds after which a step without end is aborted' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l json -d 'Also write everything that was measured to this file, for `report` and `compare`' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l markdown -d 'Also write the tables to this file' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l html -d 'Also write a page with plots to this file; it needs no other file' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l workload -d 'Only this workload; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l threads -l jobs -d 'Numbers of client threads [default: what the workload says]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l reps -d 'Turns of each target at each row' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l warmup -d 'Turns before them that do not count' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l scale -d 'Factor on the work of one turn' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l retries -d 'How often a turn is done again if others used the machine meanwhile; the quietest counts' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l noisy -d 'Percent of the machine that others may use before a row counts as noisy' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l cpu -d 'Keep all clients on this CPU, or on `any` [default: what the preset says, or any]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l subject -d 'A target of interest; may be repeated [default: all with a daemon]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l baseline -d 'The target they are compared with [default: fuser, pipe, the first with a daemon, or native]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -l pin -d 'Keep each client thread on a CPU of its own, as far as there are enough; daemons stay free'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from passthrough" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -s t -l target -d 'What to measure; may be repeated [default: what the preset says]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l profile -d 'Caching profile of targets that do not say cache=... [default: what the preset says, or auto]' -r -f -a "none\t'Nothing: every use of a name or attribute asks the daemon'
auto\t'For a short time'
always\t'For as long as there is memory'"
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l fusewire -d 'Release binary of fusewire [default: beside this program]' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l fuser -d 'The example `fuser_passthrough` [default: in `examples` beside this program]' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l fusewire-arg -d 'One more argument for `fusewire mount`, such as --fusewire-arg=--no-acl; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l fuser-arg -d 'One more argument for `fuser_passthrough`; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l peers -d 'More peers: TOML, one line each, NAME = { programs = [...], run = "... {src} {mnt}" }' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l peers-dir -d 'Directory with programs of peers, looked into before the PATH; may be repeated' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l lower -d 'What the source directory lies on: `tmpfs`, or an existing directory in which a new one is made; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l limit -d 'Seconds after which a step without end is aborted' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l json -d 'Also write everything that was measured to this file' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l files -d 'Files to look up' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l per-dir -d 'Files in each directory' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l threads -d 'Client threads' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l nofile -d 'Most files the daemon may have open' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from memory" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from compare" -l metric -d 'What to compare; may be repeated [default: cpu]' -r -f -a "cpu\t'CPU time of client and daemon per operation'
throughput\t'Operations per second'
p50\t'Median latency'
p99\t'99th percentile of the latency'
p999\t'99.9th percentile of the latency'
switches\t'Context switches per operation'
memory\t'Resident memory of the daemon'"
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from compare" -l threshold -d 'Percent by which a median must be worse to count' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from compare" -l significance -d 'How likely by chance a difference may be, at most' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from compare" -l relative-to -d 'Compare the ratios to this target in the same turns: for results from different machines or days' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from compare" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from compare" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from compare" -l with-noisy -d 'Judge rows in which others disturbed, too'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from compare" -l all -d 'List also what is the same or noisy'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from compare" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from compare" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from compare" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from report" -l json -d 'Also write everything that was measured to this file, for `report` and `compare`' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from report" -l markdown -d 'Also write the tables to this file' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from report" -l html -d 'Also write a page with plots to this file; it needs no other file' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from report" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from report" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from report" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from report" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from report" -s h -l help -d 'Print help'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -s t -l target -d 'What to measure; may be repeated [default: what the preset says]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -l profile -d 'Caching profile of targets that do not say cache=... [default: what the preset says, or auto]' -r -f -a "none\t'Nothing: every use of a name or attribute asks the daemon'
auto\t'For a short time'
always\t'For as long as there is memory'"
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -l fusewire -d 'Release binary of fusewire [default: beside this program]' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -l fuser -d 'The example `fuser_passthrough` [default: in `examples` beside this program]' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -l fusewire-arg -d 'One more argument for `fusewire mount`, such as --fusewire-arg=--no-acl; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -l fuser-arg -d 'One more argument for `fuser_passthrough`; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -l peers -d 'More peers: TOML, one line each, NAME = { programs = [...], run = "... {src} {mnt}" }' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -l peers-dir -d 'Directory with programs of peers, looked into before the PATH; may be repeated' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from echo" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from echo" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from echo" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from echo" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from echo" -s h -l help -d 'Print help'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from help" -f -a "run" -d 'Measure workloads on targets, in turn'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from help" -f -a "passthrough" -d 'Names and data of a re-exported directory: `run passthrough`'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from help" -f -a "memory" -d 'Resident memory of a daemon: idle, and per file the kernel knows'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from help" -f -a "compare" -d 'Fail if a result is worse than another one beyond noise'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from help" -f -a "report" -d 'Tables and plots of a stored result'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from help" -f -a "list" -d 'Presets, targets found on this machine, and what workload files may say'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from help" -f -a "echo" -d 'Send back what comes in: the other end of the target `pipe`'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fusewire -n "__fish_fusewire_using_subcommand install-helper" -l dir -d 'Where to put the link; mount(8) looks into /sbin' -r -f -a "(__fish_complete_directories)"
complete -c fusewire -n "__fish_fusewire_using_subcommand install-helper" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand install-helper" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand install-helper" -l remove -d 'Take the link away again'
complete -c fusewire -n "__fish_fusewire_using_subcommand install-helper" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand install-helper" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand install-helper" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand completions" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand completions" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand completions" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand completions" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand man" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand man" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand man" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand man" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount probe bench install-helper completions man help" -f -a "mount" -d 'Mount a directory, or a filesystem in memory'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount probe bench install-helper completions man help" -f -a "unmount" -d 'Unmount a FUSE mount, and tell who uses it if that fails'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount probe bench install-helper completions man help" -f -a "probe" -d 'Tell what this kernel, this user and a directory allow'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount probe bench install-helper completions man help" -f -a "bench" -d 'Measure channels, peers and the directory beneath at the same work'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount probe bench install-helper completions man help" -f -a "install-helper" -d 'Make `mount -t fuse.fusewire` and fstab work'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount probe bench install-helper completions man help" -f -a "completions" -d 'Print a script that completes command lines of fusewire'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount probe bench install-helper completions man help" -f -a "man" -d 'Write the manual pages into a directory'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount probe bench install-helper completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and __fish_seen_subcommand_from bench" -f -a "run" -d 'Measure workloads on targets, in turn'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and __fish_seen_subcommand_from bench" -f -a "passthrough" -d 'Names and data of a re-exported directory: `run passthrough`'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and __fish_seen_subcommand_from bench" -f -a "memory" -d 'Resident memory of a daemon: idle, and per file the kernel knows'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and __fish_seen_subcommand_from bench" -f -a "compare" -d 'Fail if a result is worse than another one beyond noise'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and __fish_seen_subcommand_from bench" -f -a "report" -d 'Tables and plots of a stored result'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and __fish_seen_subcommand_from bench" -f -a "list" -d 'Presets, targets found on this machine, and what workload files may say'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and __fish_seen_subcommand_from bench" -f -a "echo" -d 'Send back what comes in: the other end of the target `pipe`'
