# What systemd is to godwit-cri-proxy.{socket,service}, on a node that has none: `socket_unit.pl SOCKET PROGRAM [ARGUMENT]…`
#
# Its own is the listening socket: clients that come while no program serves it wait in its queue. The program is started with it
# (sd_listen_fds(3)), and again 100 ms after it has ended; not while one that it has handed the socket over to still serves. SIGHUP
# goes to the program. SIGTERM ends both.
use strict;
use warnings;
use POSIX ();
use Socket;

my ($path, @program) = @ARGV;
my $subreaper = 36;    # PR_SET_CHILD_SUBREAPER: successors become children of this process
syscall(157, $subreaper, 1, 0, 0, 0) == 0 or die "prctl: $!";

my ($dir) = $path =~ m{(.*)/};
-d $dir or mkdir $dir, 0700 or die "mkdir $dir: $!";
unlink $path;
$^F = 3;               # descriptor 3 outlives exec
socket(my $listening, AF_UNIX, SOCK_STREAM, 0) or die "socket: $!";
umask 0177;
bind($listening, pack_sockaddr_un($path)) or die "bind $path: $!";
listen($listening, 4096) or die "listen: $!";
umask 0022;
POSIX::dup2(fileno $listening, 3) if fileno $listening != 3;

my ($pid, $over) = (0, 0);
$SIG{HUP} = sub { kill HUP => $pid if $pid };
$SIG{TERM} = sub { $over = 1; kill TERM => proxies() };

until ($over) {
    $pid = fork // die "fork: $!";
    if ($pid == 0) {
        ($SIG{HUP}, $SIG{TERM}) = ('DEFAULT', 'DEFAULT');
        ($ENV{LISTEN_PID}, $ENV{LISTEN_FDS}) = ($$, 1);
        exec { $program[0] } @program or die "exec $program[0]: $!";
    }
    # The youngest is who serves when the first one has handed over.
    do {
        wait;
        ($pid) = sort { $b <=> $a } proxies();
        $pid //= 0;
    } while $pid;
    select undef, undef, undef, 0.1 unless $over;
}
unlink $path;

# Whoever writes our log is a child, too.
sub proxies {
    my $children = content("/proc/$$/task/$$/children");
    return grep { content("/proc/$_/comm") =~ /^godwit-cri-prox/ } split ' ', $children;
}

sub content {
    open my $file, '<', $_[0] or return '';
    return <$file> // '';
}
