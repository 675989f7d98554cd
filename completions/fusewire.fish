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
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "vhost" -d 'Share a directory with a virtual machine, as a virtio-fs device'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "probe" -d 'Tell what this kernel, this user and a directory allow'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "stats" -d 'Show what a mount has been asked for'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "bench" -d 'Measure channels, peers and the directory beneath at the same work'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "top" -d 'Show the requests of every FUSE mount of this machine: how many, how fast, and which are stuck'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "trace" -d 'Print each request of the FUSE mounts of this machine'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "install-helper" -d 'Make `mount -t fuse.fusewire` and fstab work'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "completions" -d 'Print a script that completes command lines of fusewire'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "man" -d 'Write the manual pages into a directory'
complete -c fusewire -n "__fish_fusewire_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l fs -d 'What to mount [default: passthrough]' -r -f -a "passthrough\t'The directory SRC'
mem\t'A filesystem in memory; SRC is `none`'
null\t'Accepts all data and keeps none of it, for measurements; SRC is `none`'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l size -d 'With --fs mem: room for the content of files, such as 512M [default: 1G]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l delay -d 'With --fs null: how long each read and write takes, as on a slow disk, such as 2ms [default: 0s]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s o -l options -d 'Mount options, separated by commas; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l policy -d 'Keep everybody to the rules in FILE (TOML; docs/policy.md), besides permission bits; SIGHUP reads it again' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l kernel-answers -d 'Have the kernel say again by itself what somebody may not do and which attributes are absent (BPF LSM) [default: auto]' -r -f -a "auto\t'With --policy, where the kernel takes the programs for it'
always\t'In any case; it is an error if the kernel does not take them'
off\t'Never'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l cache -d 'How much the kernel remembers between requests [default: coherent where that can be had and SRC is on a local filesystem with no other mounted inside, else auto; `fusewire probe SRC` tells which, and why]' -r -f -a "none\t'Nothing: each access asks, as if several machines wrote to SRC'
auto\t'Names and attributes for a second, data as long as the file has not changed'
coherent\t'Everything, until somebody changes it: the kernel is told of what others do to SRC. It takes a local SRC and Linux 6.16; without root it is so for the files that can be watched. Where it cannot be had it is as auto, with a warning'
always\t'Everything, until it is changed through the mount: SRC must not be changed in other ways'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l entry-timeout -d 'How long the kernel trusts a name it has seen' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l attr-timeout -d 'How long the kernel trusts sizes, times and modes' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l negative-timeout -d 'How long the kernel trusts that a name does not exist' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l channel -d 'How requests come from the kernel; `fusewire probe` tells what auto comes to, and why [default: auto]' -r -f -a "auto\t'Over io_uring where that can be had, else /dev/fuse'
dev-fuse\t'By reading and writing /dev/fuse'
uring\t'Over io_uring, a ring for each CPU; mounting fails where that cannot be had'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l memory -d 'What the buffers of the rings may keep together, such as 64M, at least 1M: more than that is given back after each request. Less than 1M for each CPU lowers the longest read and write, never below 128K [default: 64M, which lowers nothing]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l buffers -d 'Where data is on its way over io_uring: Linux 7.3 offers more than one place [default: auto]' -r -f -a "auto\t'In a pool for each CPU where the kernel has them; as root, not copied at all where that pays'
own\t'In a buffer for each request, as before Linux 7.3'
pool\t'In pools, and always copied'
pinned\t'As auto, and all memory is taken at once, which spares the kernel some work; fewer requests can wait for something'
zero-copy\t'As auto, and never copied, even where that does not pay'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l threads -d 'Threads that serve requests [default: one per CPU]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l poll -d 'How threads wait for requests: off, they sleep; auto, they sleep where their clients are, and poll only where that pays and takes no CPU from anybody; fixed:US, they poll for so many microseconds before they sleep, which is for CPUs that are reserved [default: auto]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l placement -d 'Where those threads run: off, as the scheduler likes; auto, while it pays, on their callers\' CPUs, stepping aside for whoever wants them, as root [default: auto]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l max-write -d 'Longest write request, such as 128K or 1M [default: what the kernel allows]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l file-handles -d 'Remember files by file handle instead of keeping each of them open [default: auto]' -r -f -a "auto\t'Where the directory and the rights of the user allow it'
never\t'Never: each file that the kernel knows costs a file descriptor'
always\t'Always: fail where it is not possible'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l passthrough -d 'Have the kernel read, write and map the files of SRC by itself, without a request [default: auto]' -r -f -a "auto\t'Files of 64 KiB or more, where the kernel can: Linux 6.9 or newer, as root'
always\t'Small and new ones, too, whose opening takes longer then'
off\t'None: each read and write is a request'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l opens -d 'Whether opening and closing a file is a request [default: auto]' -r -f -a "auto\t'Stateless for directories with --cache coherent or always; for files, too, once ten thousand were opened of which few are large, if --locks is mount'
stateless\t'No: for trees of small files that are read again and again. It takes --cache always or coherent, and --locks mount, and excludes --passthrough'
handles\t'Yes, so that large files can be read and written by the kernel itself'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l locks -d 'Who sees locks taken on the mount: everybody who uses SRC, or users of this mount alone [default: directory]' -r -f -a "directory\t'Everybody who uses SRC, on the mount or not'
mount\t'Users of this mount: the kernel keeps them to itself, without requests'"
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l metrics -d 'Time requests, and serve metrics in the form of OpenMetrics, which Prometheus reads, at http://ADDR:PORT/metrics; a port alone is of 127.0.0.1. Whoever can connect can read them' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s r -l read-only -d 'Nothing can be changed through the mount (-o ro)'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l allow-other -d 'Every user may use the mount; the default for root'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l private -d 'Only the user who mounts may use it; the default for anyone but root'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s d -l daemon -d 'Go to the background once the mount works; a failure to mount is still reported here'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l auto-unmount -d 'The mount goes away with the daemon, even if it is killed'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l dry-run -d 'Check everything that can be checked beforehand, and mount nothing'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l sloppy -d 'Options in -o that are not known are ignored, as mount(8) asks for with -s'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -l stats -d 'Time requests, and print requests by operation when the mount ends, and on SIGUSR1'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand mount" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l fs -d 'What to mount [default: passthrough]' -r -f -a "passthrough\t'The directory SRC'
mem\t'A filesystem in memory; SRC is `none`'
null\t'Accepts all data and keeps none of it, for measurements; SRC is `none`'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l size -d 'With --fs mem: room for the content of files, such as 512M [default: 1G]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l delay -d 'With --fs null: how long each read and write takes, as on a slow disk, such as 2ms [default: 0s]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -s o -l options -d 'Mount options, separated by commas; may be repeated' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l policy -d 'Keep everybody to the rules in FILE (TOML; docs/policy.md), besides permission bits; SIGHUP reads it again' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l kernel-answers -d 'Have the kernel say again by itself what somebody may not do and which attributes are absent (BPF LSM) [default: auto]' -r -f -a "auto\t'With --policy, where the kernel takes the programs for it'
always\t'In any case; it is an error if the kernel does not take them'
off\t'Never'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l cache -d 'How much the kernel remembers between requests [default: coherent where that can be had and SRC is on a local filesystem with no other mounted inside, else auto; `fusewire probe SRC` tells which, and why]' -r -f -a "none\t'Nothing: each access asks, as if several machines wrote to SRC'
auto\t'Names and attributes for a second, data as long as the file has not changed'
coherent\t'Everything, until somebody changes it: the kernel is told of what others do to SRC. It takes a local SRC and Linux 6.16; without root it is so for the files that can be watched. Where it cannot be had it is as auto, with a warning'
always\t'Everything, until it is changed through the mount: SRC must not be changed in other ways'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l entry-timeout -d 'How long the kernel trusts a name it has seen' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l attr-timeout -d 'How long the kernel trusts sizes, times and modes' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l negative-timeout -d 'How long the kernel trusts that a name does not exist' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l channel -d 'How requests come from the kernel; `fusewire probe` tells what auto comes to, and why [default: auto]' -r -f -a "auto\t'Over io_uring where that can be had, else /dev/fuse'
dev-fuse\t'By reading and writing /dev/fuse'
uring\t'Over io_uring, a ring for each CPU; mounting fails where that cannot be had'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l memory -d 'What the buffers of the rings may keep together, such as 64M, at least 1M: more than that is given back after each request. Less than 1M for each CPU lowers the longest read and write, never below 128K [default: 64M, which lowers nothing]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l buffers -d 'Where data is on its way over io_uring: Linux 7.3 offers more than one place [default: auto]' -r -f -a "auto\t'In a pool for each CPU where the kernel has them; as root, not copied at all where that pays'
own\t'In a buffer for each request, as before Linux 7.3'
pool\t'In pools, and always copied'
pinned\t'As auto, and all memory is taken at once, which spares the kernel some work; fewer requests can wait for something'
zero-copy\t'As auto, and never copied, even where that does not pay'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l threads -d 'Threads that serve requests [default: one per CPU]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l poll -d 'How threads wait for requests: off, they sleep; auto, they sleep where their clients are, and poll only where that pays and takes no CPU from anybody; fixed:US, they poll for so many microseconds before they sleep, which is for CPUs that are reserved [default: auto]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l placement -d 'Where those threads run: off, as the scheduler likes; auto, while it pays, on their callers\' CPUs, stepping aside for whoever wants them, as root [default: auto]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l max-write -d 'Longest write request, such as 128K or 1M [default: what the kernel allows]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l file-handles -d 'Remember files by file handle instead of keeping each of them open [default: auto]' -r -f -a "auto\t'Where the directory and the rights of the user allow it'
never\t'Never: each file that the kernel knows costs a file descriptor'
always\t'Always: fail where it is not possible'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l passthrough -d 'Have the kernel read, write and map the files of SRC by itself, without a request [default: auto]' -r -f -a "auto\t'Files of 64 KiB or more, where the kernel can: Linux 6.9 or newer, as root'
always\t'Small and new ones, too, whose opening takes longer then'
off\t'None: each read and write is a request'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l opens -d 'Whether opening and closing a file is a request [default: auto]' -r -f -a "auto\t'Stateless for directories with --cache coherent or always; for files, too, once ten thousand were opened of which few are large, if --locks is mount'
stateless\t'No: for trees of small files that are read again and again. It takes --cache always or coherent, and --locks mount, and excludes --passthrough'
handles\t'Yes, so that large files can be read and written by the kernel itself'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l locks -d 'Who sees locks taken on the mount: everybody who uses SRC, or users of this mount alone [default: directory]' -r -f -a "directory\t'Everybody who uses SRC, on the mount or not'
mount\t'Users of this mount: the kernel keeps them to itself, without requests'"
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l metrics -d 'Time requests, and serve metrics in the form of OpenMetrics, which Prometheus reads, at http://ADDR:PORT/metrics; a port alone is of 127.0.0.1. Whoever can connect can read them' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -s r -l read-only -d 'Nothing can be changed through the mount (-o ro)'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l allow-other -d 'Every user may use the mount; the default for root'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l private -d 'Only the user who mounts may use it; the default for anyone but root'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -s d -l daemon -d 'Go to the background once the mount works; a failure to mount is still reported here'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l auto-unmount -d 'The mount goes away with the daemon, even if it is killed'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l dry-run -d 'Check everything that can be checked beforehand, and mount nothing'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l sloppy -d 'Options in -o that are not known are ignored, as mount(8) asks for with -s'
complete -c fusewire -n "__fish_fusewire_using_subcommand m" -l stats -d 'Time requests, and print requests by operation when the mount ends, and on SIGUSR1'
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
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l shared-dir -d 'Directory to share' -r -f -a "(__fish_complete_directories)"
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l config -d 'Serve many guests and trees by what FILE says (TOML; docs/vhost.toml), until SIGTERM; see below' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l socket-path -d 'Socket to make, where the virtual machine connects; once for each machine that DIR is shared with' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l fd -d 'Listening socket that the caller has made, by its descriptor' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l socket-group -d 'Group whose members may connect' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l tag -d 'Name to mount by, for monitors that ask the device for it' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l queues -d 'Request queues: at least as many as the virtual machine is given [default: one per CPU, at most 8]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l poll -d 'How threads of queues wait for requests: off, they sleep; auto, they look for requests before they sleep while that pays and a CPU is free; fixed:US, they do so for so many microseconds, which is for CPUs that are reserved [default: auto]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l cache -d 'What the guest may remember' -r -f -a "never\t'Nothing: several guests, or the host, write to DIR'
auto\t'Names and attributes for a second, data as long as the file has not changed'
always\t'Everything, until it is changed by this guest: DIR must not be changed in other ways'
shared\t'What others have not changed for long, no longer than --lease says, and nothing of what others are changing: for guests, one --socket-path each, and programs of the host that share DIR'"
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l lease -d 'How old at most what a guest sees may be with --cache shared, seconds [default: 5]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l posix-acl -d 'Access control lists: `auto` for guests that want them, `always` for no others; they imply --xattr' -r -f -a "never\t'Never'
auto\t'To guests that want it'
always\t'To all, and guests that do not want it cannot mount'"
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l security-label -d 'Labels of security modules on what the guest makes: `auto` for guests that want them, `always` for no others; they imply --xattr' -r -f -a "never\t'Never'
auto\t'To guests that want it'
always\t'To all, and guests that do not want it cannot mount'"
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l xattrmap -d 'Rename extended attributes: `:TYPE:SCOPE:KEY:PREPEND:`, one rule after the other, or `:map:KEY:PREPEND:`; see below' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l translate-uid -d 'Users of the guest have other numbers here, several times if need be; see below' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l translate-gid -d 'Groups of the guest have other numbers here' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l inode-file-handles -d 'Whether files are remembered by file handle' -r -f -a "never\t'Never: each file that the guest knows costs a file descriptor'
prefer\t'Where DIR and the rights of the user allow it'
mandatory\t'Always: fail where it is not possible'"
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l rlimit-nofile -d 'Most file descriptors; 0 leaves the limit as it is [default: as many as are allowed]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l sandbox -d 'How the daemon shuts itself in' -r -f -a "namespace\t'In namespaces of its own, without root in a user namespace: nothing but DIR is there'
chroot\t'With DIR as its root directory: for containers that may not make namespaces; takes root'
none\t'Not at all'"
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l uid-map -d 'Users of the sandbox, several times if need be: INSIDE is OUTSIDE on this machine, and so on, COUNT of them' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l gid-map -d 'Groups of the sandbox' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l modcaps -d 'Capabilities to keep or drop, with colons between: +sys_admin:-mknod' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l seccomp -d 'What happens at system calls that serving does not take' -r -f -a "none\t'There is no list'
kill\t'The process is killed'
log\t'The kernel logs it and lets it through'
trap\t'The process gets SIGSYS'"
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l thread-pool-size -d 'Taken for the sake of virtiofsd\'s users: threads come and go here as they are needed' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -s o -d 'source=DIR, cache=WHAT, sandbox=HOW, modcaps=LIST, xattrmap=RULES, xattr, posix_acl, security_label ..., with commas between' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l log-level -d 'No effect: see --log and -v' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l dax-window -d 'Give the guest a window of this size, where it maps files of DIR instead of having pages of its own for them: a multiple of 2M' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l dax -d 'Which files a guest maps that mounts without the option dax, or with dax=inode [default: inode]' -r -f -a "never\t'None: there is no window'
inode\t'Those that --dax-min and --dax-match choose'
always\t'All'"
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l dax-min -d 'With --dax inode: files of at least this size [default: 2M]' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l dax-match -d 'With --dax inode: files with names like this, by * and ?; may be given several times' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l migration-mode -d 'How a machine that the guest moves to finds the files that the guest knows' -r -f -a "find-paths\t'By their paths: it has the same directory, or a copy'
file-handles\t'By their paths, and they must be the same files: it has the same filesystem'"
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l migration-on-error -d 'What is done about files that it does not find' -r -f -a "abort\t'The guest stays where it is'
guest-error\t'The guest moves, and has an error when it uses them'"
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l writeback -d 'Have the guest gather writes and send them later: with --cache auto or always, for a DIR that nobody else changes'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l no-readdirplus -d 'Have the guest list directories without the attributes of what is in them'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l preserve-noatime -d 'Leave access times alone where the guest asks for that (O_NOATIME), or refuse it without the right to'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l readonly -d 'Refuse every change'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l xattr -d 'Extended attributes'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l announce-submounts -d 'Tell the guest which directories are mounts, so that each has a device number of its own there [default]'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l no-announce-submounts -d 'Do not'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l shared-locks -d 'Locks that the guest takes hold for everybody who uses DIR, not in the guest alone'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l syslog -d 'Messages go to the log of the system, not to standard error'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -s f -d 'No effect: the daemon stays where it is started'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -s d -d 'No effect: see --log and -v'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l killpriv-v2 -d 'As it is in any case'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l no-killpriv-v2 -d 'No effect: who may keep set-user-id bits is the kernel\'s to say'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l allow-direct-io -d 'As it is in any case'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l allow-mmap -d 'As it is in any case'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l print-capabilities -d 'Print what there is, as JSON, for libvirt and its like'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l resume -d 'Keep what the guest knows in PATH.state, so that a daemon that is started in place of this one goes on with it'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -l upgrade -d 'Take the place of the daemon that serves at these sockets: its guests stay connected, and it ends'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand vhost" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -l json -d 'Print JSON'
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -l offer-only -d 'Only ask the kernel for its FUSE protocol, and print that as JSON'
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand probe" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand stats" -l watch -d 'Again every so many seconds, until the mount ends or Ctrl-C' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand stats" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand stats" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand stats" -l json -d 'Print JSON; with --watch a line each time'
complete -c fusewire -n "__fish_fusewire_using_subcommand stats" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand stats" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand stats" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand bench" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand bench" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand bench" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand top" -s i -l interval -d 'How long an interval is' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand top" -l stuck -d 'From which age on a request that is not answered counts as stuck' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand top" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand top" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand top" -l split -d 'Split times into waiting for the server, its service, and the caller\'s waking up'
complete -c fusewire -n "__fish_fusewire_using_subcommand top" -s 1 -l once -d 'One interval, as text; the default if standard output is no terminal'
complete -c fusewire -n "__fish_fusewire_using_subcommand top" -l json -d 'Print JSON, an object in a line for each interval'
complete -c fusewire -n "__fish_fusewire_using_subcommand top" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand top" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c fusewire -n "__fish_fusewire_using_subcommand trace" -l op -d 'Only these operations, such as lookup,read' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand trace" -l pid -d 'Only requests of this process' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand trace" -l slow -d 'Only requests that took so many microseconds or longer' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand trace" -s n -l count -d 'End after so many requests' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand trace" -l log -d 'Exactly what to log, such as `info,fusewire::channel=trace`; goes before RUST_LOG, -v and -q' -r
complete -c fusewire -n "__fish_fusewire_using_subcommand trace" -l log-file -d 'Append messages to FILE; else to the terminal, or to the system log with --daemon' -r -F
complete -c fusewire -n "__fish_fusewire_using_subcommand trace" -l split -d 'Tell how long requests waited for the server, too; costs a little at every system call of the machine'
complete -c fusewire -n "__fish_fusewire_using_subcommand trace" -l json -d 'Print JSON, an object in a line for each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand trace" -s v -l verbose -d 'Say more: -v what is decided, -vv how, -vvv each request'
complete -c fusewire -n "__fish_fusewire_using_subcommand trace" -s q -l quiet -d 'Say nothing but errors'
complete -c fusewire -n "__fish_fusewire_using_subcommand trace" -s h -l help -d 'Print help (see more with \'--help\')'
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
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "mount" -d 'Mount a directory, or a filesystem in memory'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "unmount" -d 'Unmount a FUSE mount, and tell who uses it if that fails'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "vhost" -d 'Share a directory with a virtual machine, as a virtio-fs device'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "probe" -d 'Tell what this kernel, this user and a directory allow'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "stats" -d 'Show what a mount has been asked for'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "bench" -d 'Measure channels, peers and the directory beneath at the same work'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "top" -d 'Show the requests of every FUSE mount of this machine: how many, how fast, and which are stuck'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "trace" -d 'Print each request of the FUSE mounts of this machine'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "install-helper" -d 'Make `mount -t fuse.fusewire` and fstab work'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "completions" -d 'Print a script that completes command lines of fusewire'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "man" -d 'Write the manual pages into a directory'
complete -c fusewire -n "__fish_fusewire_using_subcommand help; and not __fish_seen_subcommand_from mount unmount vhost probe stats bench top trace install-helper completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
