# Nomad moves allocations, baton moves processes: when the template's content changes Nomad sends HUP, and baton
# starts a generation with the new environment beside the one that serves, in the same container.
job "web" {
  type = "service"

  group "web" {
    count = 2

    network {
      port "http" {
        to = 8080
      }
    }

    service {
      name     = "web"
      port     = "http"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "web" {
      driver = "docker"

      config {
        image = "example/web"
        ports = ["http"]
      }

      # The slots are emptied (a second or so), drain_timeout of baton.toml, and some air. Nomad takes the service
      # out of its catalogue first and waits for shutdown_delay, as clients are slower to hear of it.
      kill_signal    = "SIGTERM"
      kill_timeout   = "30s"
      shutdown_delay = "5s"

      template {
        destination   = "secrets/web.env"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        data          = <<-EOT
          {{ with nomadVar "nomad/jobs/web" }}GREETING={{ .greeting }}{{ end }}
        EOT
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
