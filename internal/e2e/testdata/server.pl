# A server on Perl's own Server::Starter.
use strict;
use warnings;
use IO::Socket::INET;
use Server::Starter qw(server_ports);

my $ports = server_ports();
my ($fd) = values %$ports;
my $listener = IO::Socket::INET->new or die $!;
$listener->fdopen($fd, 'w') or die $!;
print "generation $ENV{SERVER_STARTER_GENERATION} on ", join(',', keys %$ports), "\n";
while (my $c = $listener->accept) {
    if ($c->sysread(my $request, 4096)) {
        $c->syswrite("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nX-Generation: $ENV{SERVER_STARTER_GENERATION}\r\n\r\nok");
    }
    close $c;
}
