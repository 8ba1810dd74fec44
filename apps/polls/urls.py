from django.urls import include, path

urlpatterns = [path("", include("apps.polls.polls.urls"))]
